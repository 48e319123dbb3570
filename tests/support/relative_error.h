// The distance of what came from what was expected, for values of any size.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace t6::test {

// |got - expected| / |expected| in the Euclidean norm; infinite when sizes differ or a value is not finite.
inline double relative_error(const std::vector<double>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return std::numeric_limits<double>::infinity();
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / std::max(norm, 1e-60));
}

}  // namespace t6::test
