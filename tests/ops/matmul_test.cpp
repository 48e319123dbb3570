#include "ops/matmul.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "support/device.h"
#include "tensor/gpu.h"
#include "tensor/tensor.h"

namespace t6 {
namespace {

struct Case {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  int64_t gap = 0;  // elements between rows
};

Tensor random_matrix(int64_t rows, int64_t ld, DType dtype, uint64_t stream) {
  const Philox rng(7, RngPurpose::test, stream);
  std::vector<double> values(static_cast<size_t>(rows * ld));
  for (size_t i = 0; i < values.size(); ++i) values[i] = rng.uniform(i) - 0.5;
  return Tensor::from<double>({rows, ld}, values).to(DType::bf16).to(dtype);
}

// The product on `device`, by loops in f64, against `multiply`; gaps between the rows of C must keep what they held.
template <class F>
void expect_product(Device device, const Case& p, DType in, DType out, F&& multiply) {
  const int64_t a_rows = p.transpose_a ? p.k : p.m, b_rows = p.transpose_b ? p.n : p.k;
  const int64_t lda = (p.transpose_a ? p.m : p.k) + p.gap, ldb = (p.transpose_b ? p.k : p.n) + p.gap;
  const int64_t ldc = p.n + p.gap;
  const Tensor a = random_matrix(a_rows, lda, in, 1).to(device), b = random_matrix(b_rows, ldb, in, 2).to(device);
  memory::set_poison(true);
  const Tensor c = random_matrix(p.m, ldc, out, 3).to(device);
  const std::vector<double> av = a.to_doubles(), bv = b.to_doubles(), before = c.to_doubles();
  multiply(
      {a.raw(), b.raw(), c.raw(), p.m, p.n, p.k, lda, ldb, ldc, p.transpose_a, p.transpose_b, p.accumulate, in, out});
  EXPECT_NO_THROW(memory::check_guards());
  memory::set_poison(false);
  const std::vector<double> got = c.to_doubles();

  double difference = 0, norm = 1e-30;
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < ldc; ++j) {
      const size_t at = static_cast<size_t>(i * ldc + j);
      double expected = p.accumulate || j >= p.n ? before[at] : 0.0;
      for (int64_t k = 0; k < p.k && j < p.n; ++k) {
        expected += av[static_cast<size_t>(p.transpose_a ? k * lda + i : i * lda + k)] *
                    bv[static_cast<size_t>(p.transpose_b ? j * ldb + k : k * ldb + j)];
      }
      EXPECT_TRUE(j < p.n || got[at] == expected) << "wrote between rows";
      difference += (got[at] - expected) * (got[at] - expected);
      norm += expected * expected;
    }
  }
  const double bound = out == DType::f64 ? 1e-13 : out == DType::f32 ? 2e-6 : 4e-3;
  EXPECT_LE(std::sqrt(difference / norm), bound)
      << p.m << "x" << p.n << "x" << p.k << " ta " << p.transpose_a << " tb " << p.transpose_b << " += " << p.accumulate
      << " " << name_of(in) << " -> " << name_of(out);
}

template <class F>
void expect_products(Device device, DType in, DType out, F&& multiply) {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const bool accumulate : {false, true}) {
        if (accumulate && out == DType::bf16) continue;
        for (const int64_t gap : {0, 3, 16}) {
          expect_product(device, {1, 1, 1, ta, tb, accumulate, gap}, in, out, multiply);
          expect_product(device, {1, 50, 33, ta, tb, accumulate, gap}, in, out, multiply);
          expect_product(device, {37, 1, 85, ta, tb, accumulate, gap}, in, out, multiply);
          expect_product(device, {85, 67, 130, ta, tb, accumulate, gap}, in, out, multiply);
          if (gap == 3) expect_product(device, {130, 300, 96, ta, tb, accumulate, gap}, in, out, multiply);
        }
      }
    }
  }
  expect_product(device, {3, 4, 0}, in, out, multiply);
  if (out != DType::bf16) expect_product(device, {3, 4, 0, false, false, true}, in, out, multiply);
  expect_product(device, {0, 4, 5}, in, out, multiply);
}

void expect_products(DType in, DType out) {
  expect_products(test::test_device(), in, out, [](const MatmulArgs& args) { matmul(test::test_device(), args); });
}

TEST(Matmul, F64) {
  if (test::on_cuda()) {
    EXPECT_THROW(expect_products(DType::f64, DType::f64), Error);
    memory::set_poison(false);
  } else {
    expect_products(DType::f64, DType::f64);
  }
}
TEST(Matmul, F32) {
  expect_products(DType::f32, DType::f32);
}
TEST(Matmul, Bf16ToBf16) {
  expect_products(DType::bf16, DType::bf16);
}
TEST(Matmul, Bf16ToF32) {
  expect_products(DType::bf16, DType::f32);
}

TEST(Matmul, Bf16ThroughF32) {
  for (const DType out : {DType::bf16, DType::f32}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        expect_product(kCpu, {37, 50, 33, ta, tb, false, 5}, DType::bf16, out, cpu::matmul_bf16_through_f32);
        if (out == DType::f32) {
          expect_product(kCpu, {37, 50, 33, ta, tb, true, 0}, DType::bf16, out, cpu::matmul_bf16_through_f32);
        }
      }
    }
  }
}

// One product outside a parallel region, then the same one on every thread of a team, each into its own output.
TEST(Matmul, InsideParallelRegions) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    const int64_t m = 96, n = 160, k = 64;
    const Tensor a = random_matrix(m, k, dtype, 1), b = random_matrix(k, n, dtype, 2);
    const Tensor c = Tensor::zeros({5, m, n}, dtype);
    auto multiply = [&](int64_t i) {
      cpu::matmul({a.raw(), b.raw(), c.rows(i, 1).raw(), m, n, k, k, n, n, false, false, false, dtype, dtype});
    };
    multiply(4);
    int team = 0;
#pragma omp parallel num_threads(4)
    {
#pragma omp single
      team = omp_get_num_threads();
      multiply(omp_get_thread_num());
    }
    multiply(4);
    const std::vector<double> expected = c.rows(4, 1).to_doubles();
    for (int i = 0; i < team; ++i) {
      const std::vector<double> got = c.rows(i, 1).to_doubles();
      double worst = 0;
      for (size_t j = 0; j < got.size(); ++j) worst = std::max(worst, std::abs(got[j] - expected[j]));
      EXPECT_LE(worst, dtype == DType::bf16 ? 4e-2 : 1e-5) << name_of(dtype) << " thread " << i;
    }
  }
}

// One matrix at a time begins at every element of a 16-byte word, as slices of larger tensors do.
TEST(Matmul, AnyAlignment) {
  const int64_t m = 32, n = 64, k = 48;
  const Device device = test::test_device();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<double> aligned;
    for (int64_t at = 0; at < 24; ++at) {
      auto place = [&](int64_t which, const Tensor& matrix) {
        const Tensor room = Tensor::zeros({matrix.numel() + 8}, dtype, device);
        const Tensor part = room.slice(at / 8 == which ? at % 8 : 0, matrix.shape());
        part.copy_from(matrix.to(device));
        return part;
      };
      const Tensor a = place(0, random_matrix(m, k, dtype, 1)), b = place(1, random_matrix(n, k, dtype, 2));
      const Tensor c = place(2, random_matrix(m, n, dtype, 3));
      matmul(device, {a.raw(), b.raw(), c.raw(), m, n, k, k, k, n, false, true, false, dtype, dtype});
      const std::vector<double> got = c.to_doubles();
      if (at == 0) aligned = got;
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], aligned[i], dtype == DType::f32 ? 1e-5 : 4e-2) << name_of(dtype) << " " << at;
      }
    }
  }
}

// Bits repeat, also where k is long and parts of it may be summed on their own.
TEST(Matmul, Repeats) {
  const int64_t m = 24, n = 40, k = 3000;
  for (const MatmulChoice choice : {MatmulChoice::first, MatmulChoice::timed}) {
    set_matmul_choice(choice);
    for (const DType out : {DType::f32, DType::bf16}) {
      const Tensor a = random_matrix(m, k, DType::bf16, 1).to(test::test_device());
      const Tensor b = random_matrix(n, k, DType::bf16, 2).to(test::test_device());
      std::vector<double> first;
      for (int run = 0; run < 4; ++run) {
        const Tensor c = Tensor::empty({m, n}, out, test::test_device());
        matmul(test::test_device(),
               {a.raw(), b.raw(), c.raw(), m, n, k, k, k, n, false, true, false, DType::bf16, out});
        if (run == 0) first = c.to_doubles();
        EXPECT_EQ(c.to_doubles(), first) << "run " << run;
      }
    }
  }
}

TEST(Matmul, RejectsWhatDoesNotFit) {
  const Tensor t = Tensor::zeros({64}, DType::f64);
  MatmulArgs args{t.raw(), t.raw(), t.raw(), 2, 2, 2, 2, 2, 2};
  args.lda = 1;
  EXPECT_THROW(matmul(test::test_device(), args), Error);
  args.lda = 2;
  args.out_dtype = DType::bf16;
  EXPECT_THROW(matmul(test::test_device(), args), Error);
  args.in_dtype = DType::bf16;
  args.accumulate = true;
  EXPECT_THROW(matmul(test::test_device(), args), Error);
}

}  // namespace
}  // namespace t6
