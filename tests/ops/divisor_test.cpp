#include "ops/divisor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace t6 {
namespace {

TEST(Divisor, DividesAsTheProcessorDoes) {
  constexpr int kLargest = std::numeric_limits<int>::max();
  for (const int d : {1, 2, 3, 4, 5, 7, 8, 34, 63, 64, 65, 641, 65535, 65536, 1 << 30, (1 << 30) + 1, kLargest}) {
    const Divisor by(d);
    for (const int64_t near : {int64_t{0}, int64_t{d}, int64_t{7} * d, int64_t{kLargest} / d * d, int64_t{kLargest}}) {
      for (int64_t n = near - 2; n <= near + 2; ++n) {
        if (n < 0 || n > kLargest) continue;
        const int x = static_cast<int>(n), q = by.quotient(x);
        ASSERT_EQ(q, x / d) << n << " / " << d;
        ASSERT_EQ(by.remainder(x, q), x % d);
      }
    }
  }
}

}  // namespace
}  // namespace t6
