// Division of n < 2^31 by a number known before a kernel starts: three instructions in place of some twenty.
// Granlund and Montgomery, "Division by invariant integers using multiplication", 1994.
#pragma once

#include <bit>
#include <cstdint>

#include "tensor/dtype.h"

namespace t6 {

struct Divisor {
  uint32_t by = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t d)  // 1 to 2^31 - 1
      : by(static_cast<uint32_t>(d)), shift(static_cast<uint32_t>(std::bit_width(by - 1))) {
    multiplier = static_cast<uint32_t>((((uint64_t{1} << shift) - by) << 32) / by + 1);
  }
  T6_HOST_DEVICE int quotient(int n) const {
    const uint32_t dividend = static_cast<uint32_t>(n);
    const uint32_t high = static_cast<uint32_t>(uint64_t{dividend} * multiplier >> 32);
    return static_cast<int>((high + dividend) >> shift);
  }
  T6_HOST_DEVICE int remainder(int n, int quotient) const { return n - quotient * static_cast<int>(by); }
};

}  // namespace t6
