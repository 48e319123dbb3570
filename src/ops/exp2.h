// 2^x for softmax: fewer instructions than simd_math.h's exponential, for arguments that are known not to be large.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace t6 {

inline constexpr double kLog2e = 1.4426950408889634;

// 2^x for x <= 127, within 1e-7 relative; 2^-126 for anything below. NaN stays NaN. Polynomial: minimax in relative
// error on [-1/2, 1/2] with constant term one.
inline float exp2_bounded(float x) {
  x = x < -126.0F ? -126.0F : x;
  const float shifted = x + 12582912.0F;  // 1.5 * 2^23: the low bits of the sum are the nearest integer
  const float f = x - (shifted - 12582912.0F);
  float p = 1.326472721e-3F;
  p = p * f + 9.671512812e-3F;
  p = p * f + 5.550733745e-2F;
  p = p * f + 2.402224208e-1F;
  p = p * f + 6.931469776e-1F;
  p = p * f + 1.0F;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
}
inline double exp2_bounded(double x) {
  return std::exp2(x);
}

}  // namespace t6
