#include "ops/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "support/op_check.h"

namespace t6 {
namespace {

void check(const Shape& shape, double reach) {
  const size_t width = static_cast<size_t>(shape[-1]) / 2;
  test::op_check({.name = "swiglu " + to_string(shape),
                  .inputs = {{.shape = shape, .low = -reach, .high = reach}},
                  .call = [](const auto& in, DType) -> std::vector<Variable> { return {swiglu(in[0])}; },
                  .reference = [width](const auto& in) -> std::vector<std::vector<double>> {
                    std::vector<double> h;
                    for (size_t row = 0; row < in[0].size(); row += 2 * width) {
                      for (size_t i = 0; i < width; ++i) {
                        const double g = in[0][row + i];
                        h.push_back(g / (1 + std::exp(-g)) * in[0][row + width + i]);
                      }
                    }
                    return {h};
                  }});
}

TEST(Swiglu, Packed) {
  check({2, 3, 34}, 3.0);
  check({1, 2}, 1.0);
  check({5, 170}, 3.0);
}

TEST(Swiglu, LargeGates) {
  check({3, 34}, 90.0);
}

TEST(Swiglu, RejectsOddRows) {
  EXPECT_THROW(swiglu(Variable(Tensor::zeros({2, 5}, DType::f32))), Error);
}

}  // namespace
}  // namespace t6
