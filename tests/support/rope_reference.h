// Rotary embedding in plain loops over f64, for the references of op_check.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace t6::test {

// Turns x[0, width) of the token at `position`; direction -1 is the inverse.
inline void rotate_reference(double* x, int64_t width, int64_t position, double theta, int direction = 1) {
  const int64_t half = width / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width)) * direction;
    const double x1 = x[i], x2 = x[half + i];
    x[i] = x1 * std::cos(angle) + x2 * std::sin(angle);
    x[half + i] = -x1 * std::sin(angle) + x2 * std::cos(angle);
  }
}

}  // namespace t6::test
