#include "ops/linear.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/op_check.h"

namespace t6 {
namespace {

std::vector<double> product(const std::vector<double>& x, const std::vector<double>& w, size_t in) {
  std::vector<double> y;
  for (size_t row = 0; row < x.size(); row += in) {
    for (size_t o = 0; o < w.size(); o += in) {
      double sum = 0;
      for (size_t i = 0; i < in; ++i) sum += x[row + i] * w[o + i];
      y.push_back(sum);
    }
  }
  return y;
}

void check(const Shape& x, const Shape& w) {
  test::op_check({.name = "linear " + to_string(x) + " " + to_string(w),
                  .inputs = {{.shape = x}, {.shape = w, .role = test::Role::weight}},
                  .call = [](const auto& in, DType) -> std::vector<Variable> { return {linear(in[0], in[1])}; },
                  .reference = [in = static_cast<size_t>(w[1])](const auto& v) -> std::vector<std::vector<double>> {
                    return {product(v[0], v[1], in)};
                  }});
}

TEST(Linear, OddAndSmallSizes) {
  check({2, 3, 17}, {5, 17});
  check({1, 1}, {1, 1});
  check({1, 85}, {30, 85});
  check({33, 16}, {48, 16});
}

TEST(Linear, WiderOutput) {
  test::op_check(
      {.name = "linear to f32",
       .inputs = {{.shape = {6, 9}}, {.shape = {11, 9}, .role = test::Role::weight}},
       .call = [](const auto& in, DType act) -> std::vector<Variable> {
         const Variable y = linear(in[0], in[1], accumulate_dtype(act));
         EXPECT_EQ(y.dtype(), accumulate_dtype(act));
         return {y};
       },
       .reference = [](const auto& in) -> std::vector<std::vector<double>> { return {product(in[0], in[1], 9)}; }});
}

TEST(Linear, WeightThatIsNoParameter) {
  test::op_check(
      {.name = "linear with an input as weight",
       .inputs = {{.shape = {6, 9}}, {.shape = {11, 9}}},
       .call = [](const auto& in, DType) -> std::vector<Variable> { return {linear(in[0], in[1])}; },
       .reference = [](const auto& in) -> std::vector<std::vector<double>> { return {product(in[0], in[1], 9)}; }});
}

TEST(Linear, RejectsWhatDoesNotFit) {
  const Variable x(Tensor::zeros({2, 4}, DType::f32));
  EXPECT_THROW(linear(x, Variable(Tensor::zeros({3, 5}, DType::f32))), Error);
  EXPECT_THROW(linear(x, Variable(Tensor::zeros({3, 4}, DType::bf16))), Error);
}

}  // namespace
}  // namespace t6
