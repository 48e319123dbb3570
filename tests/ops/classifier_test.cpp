#include "ops/classifier.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "ops/embedding.h"
#include "support/op_check.h"

namespace t6 {
namespace {

constexpr double kScale = 8.0;  // gradients well above the rounding of what op_check puts into the buffer before

std::vector<double> row_losses_of(const std::vector<double>& n, const std::vector<double>& wte,
                                  const std::vector<double>& targets, size_t width) {
  std::vector<double> losses;
  for (size_t row = 0; row < targets.size(); ++row) {
    double sum = 0, target = 0;
    for (size_t v = 0; v * width < wte.size(); ++v) {
      double z = 0;
      for (size_t i = 0; i < width; ++i) z += n[row * width + i] * wte[v * width + i];
      sum += std::exp(z);
      if (static_cast<double>(v) == targets[row]) target = z;
    }
    losses.push_back(std::log(sum) - target);
  }
  return losses;
}

double scaled_mean(const std::vector<double>& losses) {
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return kScale * sum / static_cast<double>(losses.size());
}

void check(const Shape& n, int64_t vocabulary, int64_t chunk_rows, test::Role wte_role = test::Role::weight) {
  const int64_t width = n[-1], rows = n.numel() / width;
  test::op_check({.name = "classifier_loss " + to_string(n) + " V " + std::to_string(vocabulary),
                  .inputs = {{.shape = n},
                             {.shape = {vocabulary, width}, .role = wte_role},
                             {.shape = {rows}, .role = test::Role::tokens, .high = static_cast<double>(vocabulary)}},
                  .call = [chunk_rows](const auto& in, DType) -> std::vector<Variable> {
                    return {classifier_loss(in[0], in[1], in[2].value(), kScale, chunk_rows)};
                  },
                  .reference = [width](const auto& in) -> std::vector<std::vector<double>> {
                    return {{scaled_mean(row_losses_of(in[0], in[1], in[2], static_cast<size_t>(width)))}};
                  },
                  .is_root = true});
}

TEST(Classifier, EveryChunking) {
  for (const int64_t chunk_rows : {1, 3, 14, 1000}) check({2, 7, 24}, 85, chunk_rows);
}

TEST(Classifier, OddAndSmallSizes) {
  check({1, 17}, 5, 64);
  check({3, 1}, 2, 2);
  check({4, 16}, 600, 4);
}

TEST(Classifier, WeightThatIsNoParameter) {
  check({6, 12}, 33, 4, test::Role::activation);
}

struct Small {
  Variable n = Variable(Tensor::full({6, 4}, DType::f32, 0.25), Leaf::input);
  Variable wte = Variable(Tensor::zeros({9, 4}, DType::f32), Leaf::parameter);
  Tensor targets = Tensor::from<int32_t>({6}, std::vector<int32_t>{0, 8, 3, 3, 1, 7});
  Small() {
    for (int64_t i = 0; i < 36; ++i) wte.value().data<float>()[i] = 0.1F * static_cast<float>(i % 11);
  }
};

TEST(Classifier, RowLossesAndLogits) {
  const Small s;
  const NoGrad no_grad;
  Tensor rows;
  const Variable loss = classifier_loss(s.n, s.wte, s.targets, kScale, 4, &rows);
  const Tensor logits = classifier_logits(s.n.value(), s.wte.value());
  ASSERT_EQ(logits.shape(), Shape({6, 9}));
  const std::vector<double> z = logits.to_doubles(), got = rows.to_doubles();
  const std::vector<double> expected =
      row_losses_of(s.n.value().to_doubles(), s.wte.value().to_doubles(), s.targets.to_doubles(), 4);
  for (size_t row = 0; row < 6; ++row) {
    double sum = 0;
    for (size_t v = 0; v < 9; ++v) sum += std::exp(z[row * 9 + v]);
    EXPECT_NEAR(std::log(sum) - z[row * 9 + static_cast<size_t>(s.targets.data<int32_t>()[row])], expected[row], 1e-6);
    EXPECT_NEAR(got[row], expected[row], 1e-6);
  }
  EXPECT_NEAR(loss.value().item(), scaled_mean(expected), 1e-5);
}

TEST(Classifier, LargeLogitsStayFinite) {
  Small s;
  s.n.value().fill(1e4);
  const Variable loss = classifier_loss(s.n, s.wte, s.targets, 1.0);
  EXPECT_TRUE(std::isfinite(loss.value().item()));
  backward(loss);
  for (const double x : s.wte.grad().to_doubles()) EXPECT_TRUE(std::isfinite(x));
}

TEST(Classifier, NoGradTouchesNoGradient) {
  const Small s;
  const NoGrad no_grad;
  EXPECT_FALSE(classifier_loss(s.n, s.wte, s.targets, kScale).needs_grad());
  EXPECT_FALSE(s.wte.grad().defined());
}

TEST(Classifier, MustBeTheRoot) {
  const Small s;
  const Variable loss = classifier_loss(s.n, s.wte, s.targets, kScale);
  Variable twice(Tensor::full({1}, DType::f32, 2 * loss.value().item()));
  record("twice", {loss}, {&twice}, [](Gradients& g) { g.give(0, g.output(0)); });
  EXPECT_THROW(backward(twice), Error);
}

// The head's gradient is in the buffer after the forward pass; the hook waits for the embedding's all the same.
TEST(Classifier, TiedEmbeddingFiresTheHookLast) {
  const Small s;
  const Variable x = embedding(s.wte, s.targets, DType::f32);
  const Variable loss = classifier_loss(x, s.wte, s.targets, 1.0);
  const double head = s.wte.grad().to_doubles()[0];
  EXPECT_NE(head, 0.0);
  std::vector<double> at_fire;
  s.wte.set_on_ready([&] { at_fire.push_back(s.wte.grad().to_doubles()[0]); });
  backward(loss);
  ASSERT_EQ(at_fire.size(), 1U);
  EXPECT_EQ(at_fire[0], s.wte.grad().to_doubles()[0]);
  EXPECT_NE(at_fire[0], head);
}

TEST(Classifier, HoldsOneChunkOfLogits) {
  const int64_t rows = 512, width = 8, vocabulary = 1000, chunk_rows = 16;
  const Variable n(Tensor::full({rows, width}, DType::f32, 0.1), Leaf::input);
  const Variable wte(Tensor::full({vocabulary, width}, DType::f32, 0.1), Leaf::parameter);
  const Tensor targets = Tensor::zeros({rows}, DType::i32);
  const size_t before = memory::usage().in_use;
  memory::reset_peak();
  classifier_loss(n, wte, targets, 1.0, chunk_rows);
  const size_t others = static_cast<size_t>((rows * width + vocabulary * width + 2 * rows) * 4);
  EXPECT_LE(memory::usage().peak - before, others + chunk_rows * vocabulary * 4);
}

TEST(Classifier, RejectsWhatDoesNotFit) {
  const Small s;
  EXPECT_THROW(classifier_loss(s.n, s.wte, Tensor::zeros({5}, DType::i32), 1.0), Error);
  EXPECT_THROW(classifier_loss(s.n, s.wte, s.targets, 1.0, 0), Error);
  EXPECT_THROW(classifier_loss(Variable(Tensor::zeros({6, 5}, DType::f32)), s.wte, s.targets, 1.0), Error);
  for (const int32_t bad : {-1, 9}) {
    s.targets.data<int32_t>()[4] = bad;
    try {
      classifier_loss(s.n, s.wte, s.targets, 1.0);
      FAIL() << "target " << bad << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
    }
  }
}

}  // namespace
}  // namespace t6
