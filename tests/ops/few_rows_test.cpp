// Products of a few rows, as decoding makes them, against loops in f64; and that a row's bits depend on that row alone.
#include "ops/few_rows.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "support/relative_error.h"
#include "support/threads.h"
#include "tensor/tensor.h"

namespace t6 {
namespace {

using Values = std::vector<double>;

constexpr int64_t kGap = 3;  // elements between rows

Tensor random_matrix(int64_t rows, int64_t columns, DType dtype, uint64_t stream) {
  const Philox rng(7, RngPurpose::test, stream);
  Values values(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < values.size(); ++i) values[i] = rng.uniform(i) - 0.5;
  return Tensor::from<double>({rows, columns}, values).to(dtype);
}

struct Types {
  DType in, out;
};
constexpr Types kTypes[] = {{DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}};

struct Product {
  int64_t m, n, k;
  bool transposed;
  Types types;
  Tensor a, b, c;

  Product(int64_t m_, int64_t n_, int64_t k_, bool transposed_, Types types_)
      : m(m_),
        n(n_),
        k(k_),
        transposed(transposed_),
        types(types_),
        a(random_matrix(m, k + kGap, types.in, 1)),
        b(random_matrix(transposed ? n : k, (transposed ? k : n) + kGap, types.in, 2)),
        c(Tensor::full({m, n + kGap}, types.out, 7)) {}

  MatmulArgs args() const {
    return {a.raw(),  b.raw(),  c.raw(), m,          n,     k,        k + kGap,
            b.dim(1), n + kGap, false,   transposed, false, types.in, types.out};
  }
  Values expected() const {
    const Values av = a.to_doubles(), bv = b.to_doubles();
    Values values(static_cast<size_t>(m * (n + kGap)), 7.0);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t x = 0; x < k; ++x) {
          sum += av[static_cast<size_t>(i * (k + kGap) + x)] *
                 bv[static_cast<size_t>(transposed ? j * (k + kGap) + x : x * (n + kGap) + j)];
        }
        values[static_cast<size_t>(i * (n + kGap) + j)] = sum;
      }
    }
    return values;
  }
};

TEST(FewRows, AgreesWithLoops) {
  for (const Types types : kTypes) {
    for (const bool transposed : {true, false}) {
      for (int64_t m = 1; m <= cpu::kFewRows; ++m) {
        for (const auto& [n, k] :
             {std::pair<int64_t, int64_t>{1, 1}, {5, 31}, {32, 32}, {67, 33}, {130, 96}, {203, 401}}) {
          memory::set_poison(true);
          const Product p(m, n, k, transposed, types);
          ASSERT_TRUE(cpu::takes_few_rows(p.args()));
          matmul(kCpu, p.args());
          EXPECT_NO_THROW(memory::check_guards());
          memory::set_poison(false);
          const Values got = p.c.to_doubles(), expected = p.expected();
          EXPECT_LE(test::relative_error(got, expected), types.out == DType::bf16 ? 3e-3 : 1e-6)
              << m << " x " << n << " x " << k << (transposed ? " transposed " : " ") << name_of(types.in);
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = n; j < n + kGap; ++j) EXPECT_EQ(got[static_cast<size_t>(i * (n + kGap) + j)], 7);
          }
        }
      }
    }
  }
}

// Large enough for a team of threads.
TEST(FewRows, BitsDependOnTheirRowAlone) {
  for (const Types types : kTypes) {
    for (const bool transposed : {true, false}) {
      const Product whole(4, 517, 999, transposed, types);
      const auto multiply = [](const Product& p) {
        matmul(kCpu, p.args());
        return p.c.to_doubles();
      };
      const Values expected = test::with_threads(1, [&] { return multiply(whole); });
      for (int64_t rows = 1; rows <= 4; ++rows) {
        for (const int threads : {1, 3}) {
          const Product p(rows, 517, 999, transposed, types);
          p.a.copy_from(whole.a.rows(4 - rows, rows));
          const Values got = test::with_threads(threads, [&] { return multiply(p); });
          EXPECT_TRUE(std::equal(got.begin(), got.end(), expected.end() - static_cast<std::ptrdiff_t>(got.size())))
              << rows << " rows, " << threads << " threads, " << name_of(types.in);
        }
      }
    }
  }
}

TEST(FewRows, TakesWhatDecodingMultiplies) {
  const Product p(4, 8, 8, true, kTypes[0]);
  MatmulArgs args = p.args();
  EXPECT_TRUE(cpu::takes_few_rows(args));
  args.m = cpu::kFewRows + 1;
  EXPECT_FALSE(cpu::takes_few_rows(args));
  args = p.args();
  args.accumulate = true;
  EXPECT_FALSE(cpu::takes_few_rows(args));
  args = p.args();
  args.transpose_a = true;
  EXPECT_FALSE(cpu::takes_few_rows(args));
  args = p.args();
  args.in_dtype = args.out_dtype = DType::f64;
  EXPECT_FALSE(cpu::takes_few_rows(args));
}

}  // namespace
}  // namespace t6
