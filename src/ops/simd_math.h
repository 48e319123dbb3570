// Elementary functions that compilers turn into vector instructions: no branches, no tables, no calls for float.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace t6 {

// e^x. float: within 1.1 ulp of the exact value over the whole range; 0 below -104, infinity above 89, NaN for NaN.
// Reduction x = n ln 2 + r and the polynomial for e^r after Cephes (Moshier), expf.
inline float simd_exp(float x) {
  constexpr float kLog2e = 1.44269504088896341F;
  constexpr float kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  x = x < -104.0F ? -104.0F : x;
  x = x > 89.0F ? 89.0F : x;
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  // 2^n in two factors, as n reaches from -150 to 128.
  const int32_t whole = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const int32_t half = whole >> 1;
  const float first = std::bit_cast<float>((half + 127) << 23);
  const float second = std::bit_cast<float>((whole - half + 127) << 23);
  return p * first * second;
}
inline double simd_exp(double x) {
  return std::exp(x);
}

// 1 / (1 + e^-x)
template <class T>
inline T simd_sigmoid(T x) {
  return T(1) / (T(1) + simd_exp(-x));
}

}  // namespace t6
