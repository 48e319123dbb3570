#include "ops/embedding.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/op_check.h"

namespace t6 {
namespace {

void check(const Shape& tokens, const Shape& table, bool wide) {
  test::op_check({.name = "embedding " + to_string(tokens) + " " + to_string(table),
                  .inputs = {{.shape = table, .role = test::Role::weight},
                             {.shape = tokens, .role = test::Role::tokens, .high = static_cast<double>(table[0])}},
                  .call = [wide](const auto& in, DType act) -> std::vector<Variable> {
                    return {embedding(in[0], in[1].value(), wide ? accumulate_dtype(act) : act)};
                  },
                  .reference = [width = table[1]](const auto& in) -> std::vector<std::vector<double>> {
                    std::vector<double> y;
                    for (const double token : in[1]) {
                      const auto row = in[0].begin() + static_cast<int64_t>(token) * width;
                      y.insert(y.end(), row, row + width);
                    }
                    return {y};
                  }});
}

TEST(Embedding, RepeatedTokens) {
  check({3, 9}, {5, 37}, true);
  check({3, 9}, {5, 37}, false);
  check({1}, {3, 1}, true);
}

TEST(Embedding, RejectsTokensOutsideTheTable) {
  const Variable table(Tensor::zeros({4, 3}, DType::f32));
  for (const int32_t bad : {-1, 4}) {
    const Tensor tokens = Tensor::from<int32_t>({3}, std::vector<int32_t>{0, bad, 3});
    try {
      embedding(table, tokens, DType::f32);
      FAIL() << "token " << bad << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
    }
  }
}

}  // namespace
}  // namespace t6
