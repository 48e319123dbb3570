#include "ops/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "support/op_check.h"

namespace t6 {
namespace {

constexpr double kEps = 1.1920929e-07;

std::vector<double> norm_rows(const std::vector<double>& x, size_t width, const std::vector<double>* weight = nullptr) {
  std::vector<double> y(x.size());
  for (size_t row = 0; row < x.size(); row += width) {
    double squares = 0;
    for (size_t i = 0; i < width; ++i) squares += x[row + i] * x[row + i];
    for (size_t i = 0; i < width; ++i) {
      y[row + i] = x[row + i] / std::sqrt(squares / static_cast<double>(width) + kEps) *
                   (weight != nullptr ? (*weight)[i] : 1.0);
    }
  }
  return y;
}

TEST(RmsNorm, Plain) {
  test::op_check(
      {.name = "rms_norm",
       .inputs = {{.shape = {3, 5, 37}, .role = test::Role::residual}},
       .call = [](const auto& in, DType act) -> std::vector<Variable> { return {rms_norm(in[0], kEps, act)}; },
       .reference = [](const auto& in) -> std::vector<std::vector<double>> { return {norm_rows(in[0], 37)}; }});
}

TEST(RmsNorm, Weighted) {
  test::op_check(
      {.name = "rms_norm weighted",
       .inputs = {{.shape = {7, 24}}, {.shape = {24}, .role = test::Role::weight, .low = 0.5, .high = 1.5}},
       .call = [](const auto& in, DType act) -> std::vector<Variable> { return {rms_norm(in[0], kEps, act, in[1])}; },
       .reference = [](const auto& in) -> std::vector<std::vector<double>> { return {norm_rows(in[0], 24, &in[1])}; }});
}

TEST(RmsNorm, WithResidualAdd) {
  test::op_check({.name = "add_rms_norm",
                  .inputs = {{.shape = {6, 33}, .role = test::Role::residual}, {.shape = {6, 33}}},
                  .call = [](const auto& in, DType) -> std::vector<Variable> {
                    AddRmsNorm out = add_rms_norm(in[0], in[1], kEps);
                    return {out.sum, out.norm};
                  },
                  .reference = [](const auto& in) -> std::vector<std::vector<double>> {
                    std::vector<double> sum = in[0];
                    for (size_t i = 0; i < sum.size(); ++i) sum[i] += in[1][i];
                    return {sum, norm_rows(sum, 33)};
                  }});
}

// Widths of one, two and three warps on a GPU, and rows that do not fill a block.
TEST(RmsNorm, WholePacks) {
  for (const auto& [rows, width] :
       {std::pair<int64_t, int64_t>(1, 8), {5, 768}, {2, 1024}, {3, 1032}, {2, 1600}, {7, 2176}}) {
    const auto columns = static_cast<size_t>(width);
    test::op_check({.name = "add_rms_norm of width " + std::to_string(width),
                    .inputs = {{.shape = {rows, width}, .role = test::Role::residual}, {.shape = {rows, width}}},
                    .call = [](const auto& in, DType) -> std::vector<Variable> {
                      AddRmsNorm out = add_rms_norm(in[0], in[1], kEps);
                      return {out.sum, out.norm};
                    },
                    .reference = [=](const auto& in) -> std::vector<std::vector<double>> {
                      std::vector<double> sum = in[0];
                      for (size_t i = 0; i < sum.size(); ++i) sum[i] += in[1][i];
                      return {sum, norm_rows(sum, columns)};
                    },
                    .differences = false});
  }
}

TEST(RmsNorm, WeightGradientOverManyRows) {
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>(1100, 24), {1030, 13}, {3, 1040}, {2, 8200}}) {
    const auto columns = static_cast<size_t>(width);
    test::op_check(
        {.name = "rms_norm weighted of width " + std::to_string(width),
         .inputs = {{.shape = {rows, width}}, {.shape = {width}, .role = test::Role::weight, .low = 0.5, .high = 1.5}},
         .call = [](const auto& in, DType act) -> std::vector<Variable> { return {rms_norm(in[0], kEps, act, in[1])}; },
         .reference = [=](const auto& in) -> std::vector<std::vector<double>> {
           return {norm_rows(in[0], columns, &in[1])};
         },
         .tolerance = {.f32 = 1e-5},
         .differences = false});
  }
}

// One of the two results unused: its gradient counts as zero.
TEST(RmsNorm, OneResultUnused) {
  for (const size_t used : {size_t{0}, size_t{1}}) {
    test::op_check({.name = "add_rms_norm, result " + std::to_string(used),
                    .inputs = {{.shape = {3, 40}, .role = test::Role::residual}, {.shape = {3, 40}}},
                    .call = [=](const auto& in, DType) -> std::vector<Variable> {
                      AddRmsNorm out = add_rms_norm(in[0], in[1], kEps);
                      return {used == 0 ? out.sum : out.norm};
                    },
                    .reference = [=](const auto& in) -> std::vector<std::vector<double>> {
                      std::vector<double> sum = in[0];
                      for (size_t i = 0; i < sum.size(); ++i) sum[i] += in[1][i];
                      return {used == 0 ? sum : norm_rows(sum, 40)};
                    }});
  }
}

TEST(RmsNorm, RejectsUnequalShapes) {
  const Variable x(Tensor::zeros({2, 4}, DType::f32)), a(Tensor::zeros({2, 5}, DType::f32));
  EXPECT_THROW(add_rms_norm(x, a, kEps), Error);
}

}  // namespace
}  // namespace t6
