#include "ops/embedding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "support/device.h"
#include "support/every_order.h"
#include "support/op_check.h"
#include "support/random_tensor.h"

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
  check({2, 5}, {4, 40}, true);
  check({2, 5}, {4, 40}, false);
}

// The gradient of a table whose buffer held 0.25, for a given dy [rows, width].
Tensor table_gradient(const std::vector<int32_t>& tokens, int64_t vocabulary, const Tensor& dy, Device device) {
  const int64_t rows = static_cast<int64_t>(tokens.size()), width = dy.dim(1);
  Variable table(Tensor::zeros({vocabulary, width}, DType::f32, device), Leaf::parameter);
  table.set_grad(Tensor::full({vocabulary, width}, DType::f32, 0.25, device));
  const Variable y = embedding(table, Tensor::from<int32_t>({rows}, tokens).to(device), dy.dtype());
  Variable root(Tensor::zeros({1}, DType::f64));
  record("given", {y}, {&root}, [dy, device](Gradients& g) { g.give(0, dy.to(device)); });
  backward(root);
  return table.grad();
}

// Against the CPU, which adds in the order of the tokens; `exact` where CUDA does too.
void check_gradient(const std::vector<int32_t>& tokens, int64_t vocabulary, int64_t width, bool exact = false) {
  memory::set_poison(true);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor dy = test::random_tensor({static_cast<int64_t>(tokens.size()), width}, dtype, 7);
    const std::vector<double> expected = table_gradient(tokens, vocabulary, dy, kCpu).to_doubles();
    const std::vector<double> got = table_gradient(tokens, vocabulary, dy, test::test_device()).to_doubles();
    if (exact) {
      EXPECT_TRUE(got == expected);
      continue;
    }
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], expected[i], 1e-6 + 5e-8 * static_cast<double>(tokens.size())) << i;  // two orders in f32
    }
  }
  EXPECT_NO_THROW(memory::check_guards());
  memory::set_poison(false);
}

// Few frequent ids and many rare ones, in no order.
std::vector<int32_t> tokens_like_text(int64_t count, int64_t vocabulary) {
  const Philox rng(13, RngPurpose::test, 0);
  std::vector<int32_t> tokens;
  for (uint64_t i = 0; i < static_cast<uint64_t>(count); ++i) {
    const double rank = std::pow(static_cast<double>(vocabulary), rng.uniform(i)) - 1;
    tokens.push_back(static_cast<int32_t>(static_cast<int64_t>(rank) * 7919 % vocabulary));
  }
  return tokens;
}

TEST(EmbeddingGradient, OneRow) {
  check_gradient({2}, 3, 5, true);
  check_gradient({299}, 300, 8, true);
}

// Every id in at most one piece of kEmbeddingPiece sorted tokens: the sums are the CPU's to the bit.
TEST(EmbeddingGradient, OrderOfTheTokensWithinAPiece) {
  for (const int64_t repeats : {1, 2, 16, 64}) {
    std::vector<int32_t> tokens(1024);
    const int64_t ids = 1024 / repeats;
    for (int64_t i = 0; i < 1024; ++i) tokens[static_cast<size_t>(i)] = static_cast<int32_t>(i * 389 % ids);
    check_gradient(tokens, ids + 1, 36, true);
  }
}

// Runs that end at a piece's border, one before and one behind it, and that span many pieces.
TEST(EmbeddingGradient, RunsAcrossPieces) {
  for (const int64_t run : {63, 65, 96, 128, 129, 200, 640, 5000}) {
    std::vector<int32_t> tokens(1500);
    const int64_t ids = (1500 + run - 1) / run;
    for (int64_t i = 0; i < 1500; ++i) tokens[static_cast<size_t>(i)] = static_cast<int32_t>(i * 7 % 1500 / run);
    SCOPED_TRACE(run);
    check_gradient(tokens, ids, 6);
  }
}

TEST(EmbeddingGradient, EveryVocabularyAndWidth) {
  check_gradient(tokens_like_text(3000, 1), 1, 12);       // one id
  check_gradient(tokens_like_text(3000, 256), 256, 130);  // one pass of the sort
  check_gradient(tokens_like_text(3000, 257), 257, 512);  // two
  check_gradient(tokens_like_text(20000, 50304), 50304, 4);
  check_gradient(tokens_like_text(700, 70000), 70000, 3);  // three
  check_gradient(tokens_like_text(513, 40), 40, 1);
  check_gradient(tokens_like_text(40, 40), 40, 1100);  // several blocks of threads a row
}

TEST(EmbeddingGradient, SameInEveryOrder) {
  const std::vector<int32_t> tokens = tokens_like_text(2000, 300);
  for (const int64_t width : {7, 16}) {
    const Tensor dy = test::random_tensor({2000, width}, DType::f32, 8);
    test::expect_same_in_every_order(
        [&] { return std::vector<Tensor>{table_gradient(tokens, 300, dy, test::test_device())}; });
  }
}

TEST(Embedding, RejectsTokensOutsideTheTable) {
  if (test::on_cuda()) GTEST_SKIP() << "there tokens were checked by the caller";
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
