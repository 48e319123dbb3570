#include "ops/lanes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace t6::cpu {
namespace {

template <class T>
std::vector<T> numbers(int64_t count, uint64_t stream) {
  const Philox rng(5, RngPurpose::test, stream);
  std::vector<T> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(static_cast<Accumulate<T>>(2 * rng.uniform(i) - 1));
  return x;
}

// C = A B and then C += A B, with B from rows and B from its transpose, against plain loops.
template <class T>
void check(int64_t m, int64_t n, int64_t width, double bound) {
  using S = Accumulate<T>;
  const int64_t ld = n + 3, depth = depth_of<T>(width), ldc = padded_columns<T>(n);
  const std::vector<T> a = numbers<T>(m * (width + 1), 0), b = numbers<T>(width * ld, 1);
  std::vector<T> b_transposed(static_cast<size_t>(n * (width + 2)));
  for (int64_t k = 0; k < width; ++k) {
    for (int64_t j = 0; j < n; ++j) b_transposed[j * (width + 2) + k] = b[k * ld + j];
  }
  std::vector<LaneElement<T>> left(static_cast<size_t>(m * depth));
  std::vector<LaneElement<T>> right(static_cast<size_t>(packed_size<T>(width, n)));
  pack_rows(a.data(), width + 1, m, width, left.data());
  for (const bool transposed : {false, true}) {
    if (transposed) {
      pack_transposed(b_transposed.data(), width + 2, width, n, right.data());
    } else {
      pack_columns(b.data(), ld, width, n, right.data());
    }
    std::vector<S> c(static_cast<size_t>(m * ldc), S(NAN));
    for (const bool add : {false, true}) {
      multiply<T>({left.data(), depth, 1}, right.data(), c.data(), ldc, m, n, depth, add, [&](int64_t, int64_t) {
        return Part{0, n, 0, depth};
      });
    }
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < width; ++k) {
          sum += 2 * static_cast<double>(static_cast<S>(a[i * (width + 1) + k])) *
                 static_cast<double>(static_cast<S>(b[k * ld + j]));
        }
        ASSERT_NEAR(static_cast<double>(c[i * ldc + j]), sum, bound * static_cast<double>(width))
            << m << " " << n << " " << width << " at " << i << ", " << j << (transposed ? " transposed" : "");
      }
    }
  }
}

TEST(Lanes, ProductsOfEveryShape) {
  for (const int64_t m : {1, 5, 6, 13}) {
    for (const int64_t n : {1, 8, 16, 17, 40, 64, 70, 130}) {
      for (const int64_t width : {1, 2, 7, 16, 33, 64}) {
        check<double>(m, n, width, 1e-15);
        check<float>(m, n, width, 3e-7);
        check<bfloat16>(m, n, width, 3e-7);
      }
    }
  }
}

TEST(Lanes, LeavesOutWhatAPartLeavesOut) {
  const int64_t n = 40, width = 32, depth = depth_of<float>(width);
  const std::vector<float> a = numbers<float>(12 * width, 0), b = numbers<float>(width * n, 1);
  std::vector<float> left(a.size()), right(static_cast<size_t>(packed_size<float>(width, n))), c(12 * 48, 7.0F);
  pack_rows(a.data(), width, 12, width, left.data());
  pack_columns(b.data(), n, width, n, right.data());
  // Rows 0..5: columns from 20 on, rows 6..11: the first 16 columns; both over the numbers 3..10 only.
  multiply<float>({left.data(), depth, 1}, right.data(), c.data(), 48, 12, n, depth, false, [&](int64_t i, int64_t) {
    return i == 0 ? Part{20, n, 3, 11} : Part{0, 16, 3, 11};
  });
  for (int64_t i = 0; i < 12; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t k = 3; k < 11; ++k) sum += static_cast<double>(a[i * width + k]) * static_cast<double>(b[k * n + j]);
      // Whole registers: from column 16, not 20.
      const bool written = i < 6 ? j >= 16 : j < 16;
      EXPECT_NEAR(c[i * 48 + j], written ? sum : 7.0, 1e-5) << i << ", " << j;
    }
  }
}

// A template, so that it need not compile where elements are single numbers.
template <class E>
void check_rounding() {
  if constexpr (std::is_same_v<E, uint32_t>) {
    const std::vector<float> x = numbers<float>(23, 0), y = numbers<float>(23, 1);
    std::vector<E> row(23), pairs(23);
    round_row<bfloat16>(x.data(), row.data(), 23);
    pair_rows(x.data(), y.data(), pairs.data(), 23);
    for (size_t i = 0; i < 23; ++i) {
      EXPECT_EQ(row[i / 2] >> (i % 2 * 16) & 0xFFFFU, bfloat16(x[i]).bits);
      EXPECT_EQ(pairs[i], bfloat16(x[i]).bits | uint32_t{bfloat16(y[i]).bits} << 16);
    }
    EXPECT_EQ(row[11] >> 16, 0U);
  } else {
    GTEST_SKIP() << "no bf16 dot products here";
  }
}

TEST(Lanes, RoundsRowsToElements) {
  check_rounding<LaneElement<bfloat16>>();
}

}  // namespace
}  // namespace t6::cpu
