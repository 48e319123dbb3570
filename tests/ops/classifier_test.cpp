#include "ops/classifier.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "ops/embedding.h"
#include "support/device.h"
#include "support/every_order.h"
#include "support/op_check.h"
#include "support/random_tensor.h"

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

// The kernel alone, on logits of its own.
struct Loss {
  Tensor row_losses, gradient;  // gradient: the bytes that began as logits, [rows, columns] of the gradient's dtype
};

Loss cross_entropy_of(const Tensor& logits, const Tensor& targets, DType gradient_dtype, bool gradient, Device device) {
  const int64_t rows = logits.dim(0), columns = logits.dim(1);
  const Tensor z = logits.to(device).clone();
  Loss loss{Tensor::empty({rows}, accumulate_dtype(z.dtype()), device), {}};
  const Tensor t = targets.to(device);
  cross_entropy(device, {z.raw(), t.data<int32_t>(), loss.row_losses.raw(), rows, columns, kScale, gradient, z.dtype(),
                         gradient_dtype});
  // Rows lie as far apart as the logits did.
  const Tensor bytes = z.to(kCpu);
  loss.gradient = Tensor::empty({rows, columns}, gradient_dtype);
  const size_t apart = static_cast<size_t>(columns) * size_of(z.dtype());
  const size_t wide = static_cast<size_t>(columns) * size_of(gradient_dtype);
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    std::memcpy(static_cast<char*>(loss.gradient.raw()) + row * wide,
                static_cast<const char*>(bytes.raw()) + row * apart, wide);
  }
  return loss;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double relative,
                 double absolute) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(got[i])) << i << ": " << got[i];
    } else if (std::isinf(expected[i])) {
      ASSERT_EQ(got[i], expected[i]) << i;
    } else {
      ASSERT_NEAR(got[i], expected[i], relative * std::abs(expected[i]) + absolute) << i;
    }
  }
}

struct LogitTypes {
  DType logits, gradient;
};
std::vector<LogitTypes> logit_types() {
  std::vector<LogitTypes> types{{DType::f32, DType::f32}, {DType::f32, DType::bf16}};
  if (test::on_cuda()) types.push_back({DType::bf16, DType::bf16});
  return types;
}

// Against f64, on the same rounded logits.
void check_rows(const Tensor& logits, const Tensor& targets) {
  for (const LogitTypes types : logit_types()) {
    const Tensor z = logits.to(types.logits);
    const Loss exact = cross_entropy_of(z.to(DType::f64), targets, DType::f64, true, kCpu);
    const Loss got = cross_entropy_of(z, targets, types.gradient, true, test::test_device());
    const Loss value = cross_entropy_of(z, targets, types.gradient, false, test::test_device());
    const double half_ulp = types.gradient == DType::bf16 ? std::pow(2.0, -8) : 0.0;
    // Without vector instructions the CPU adds a row up in one f32.
    const double of_sum = test::on_cuda() ? 2e-6 : 2e-6 + 2e-9 * static_cast<double>(logits.dim(1));
    expect_near(got.row_losses.to_doubles(), exact.row_losses.to_doubles(), 2e-6, of_sum);
    expect_near(value.row_losses.to_doubles(), exact.row_losses.to_doubles(), 2e-6, of_sum);
    expect_near(got.gradient.to_doubles(), exact.gradient.to_doubles(), half_ulp + 1e-5 + of_sum, 1e-7);
    if (types.gradient == types.logits) {
      EXPECT_EQ(std::memcmp(value.gradient.raw(), z.raw(), z.bytes()), 0) << "without a gradient the logits stay";
    }
  }
}

Tensor targets_below(int64_t rows, int64_t columns) {
  std::vector<int32_t> targets;
  for (int64_t i = 0; i < rows; ++i) targets.push_back(static_cast<int32_t>(i == 0 ? columns - 1 : i * 7919 % columns));
  return Tensor::from<int32_t>({rows}, targets);
}

// Widths around packs and blocks of threads; rows that fit in a GPU's shared memory and, 120000, rows that fit in none.
TEST(CrossEntropy, EveryWidth) {
  memory::set_poison(true);
  for (const int64_t columns : {1, 2, 7, 8, 85, 600, 4096, 4104, 8200, 16385, 50304, 50257, 120000}) {
    const int64_t rows = columns > 10000 ? 2 : 3;
    SCOPED_TRACE(columns);
    check_rows(test::random_tensor({rows, columns}, DType::f32, 3, kCpu, -8, 8), targets_below(rows, columns));
  }
  EXPECT_NO_THROW(memory::check_guards());
  memory::set_poison(false);
}

// Rows of 47 to 49 KiB, which with the kernel's own shared memory are more than a GPU gives without being asked: in f32
// up to 12544 columns, in bf16 twice as many.
TEST(CrossEntropy, RowsAroundTheSharedMemoryOfEveryKernel) {
  for (const int64_t columns : {12032, 12260, 12288, 12544, 24064, 24520, 24576, 25088}) {
    SCOPED_TRACE(columns);
    check_rows(test::random_tensor({2, columns}, DType::f32, 7, kCpu, -8, 8), targets_below(2, columns));
  }
}

// Also where a thread, a warp or the whole row has seen nothing but -infinity.
TEST(CrossEntropy, LogitsThatAreNotFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const int64_t columns : {40, 33, 9000}) {
    const size_t width = static_cast<size_t>(columns), rows = 7;
    std::vector<double> z = test::random_tensor({7, columns}, DType::f32, 4, kCpu, -4, 4).to_doubles();
    for (size_t i = 0; i < width; ++i) {
      if (i % 3 != 0) z[i] = -infinity;
      z[width + i] = i == width / 2 ? 1.5 : -infinity;
      z[2 * width + i] = -infinity;
    }
    z[3 * width + 5] = std::nan("");
    z[4 * width + width - 1] = infinity;
    for (size_t i = 0; i < width; ++i) z[5 * width + i] = 3e38;
    for (size_t i = 0; i < width; ++i) z[6 * width + i] = i % 2 == 0 ? 500.0 : -500.0;
    std::vector<int32_t> targets(rows, 0);
    targets[1] = static_cast<int32_t>(width / 2);
    targets[6] = 1;
    check_rows(Tensor::from<double>({7, columns}, z).to(DType::f32), Tensor::from<int32_t>({7}, targets));
  }
}

TEST(CrossEntropy, SameInEveryOrder) {
  for (const int64_t columns : {2051, 4096, 50304}) {
    const Tensor logits = test::random_tensor({3, columns}, DType::f32, 5, kCpu, -8, 8);
    for (const LogitTypes types : logit_types()) {
      test::expect_same_in_every_order([&] {
        const Loss loss = cross_entropy_of(logits.to(types.logits), targets_below(3, columns), types.gradient, true,
                                           test::test_device());
        return std::vector<Tensor>{loss.row_losses, loss.gradient};
      });
    }
  }
}

TEST(CrossEntropy, MeanOfManyRows) {
  for (const int64_t rows : {1, 31, 5000}) {
    const Tensor losses = test::random_tensor({rows}, DType::f32, 6, kCpu, 0, 12);
    const Tensor there = losses.to(test::test_device()), loss = Tensor::empty({1}, DType::f32, test::test_device());
    mean_loss(test::test_device(), {there.raw(), loss.raw(), rows, kScale, DType::f32});
    const double expected = scaled_mean(losses.to_doubles());
    EXPECT_NEAR(loss.item(), expected, 1e-7 * expected);
  }
}

struct Small {
  Variable n = Variable(Tensor::full({6, 4}, DType::f32, 0.25, test::test_device()), Leaf::input);
  Variable wte = Variable(weight().to(test::test_device()), Leaf::parameter);
  Tensor targets = Tensor::from<int32_t>({6}, std::vector<int32_t>{0, 8, 3, 3, 1, 7}).to(test::test_device());

  static Tensor weight() {
    const Tensor w = Tensor::empty({9, 4}, DType::f32);
    for (int64_t i = 0; i < 36; ++i) w.data<float>()[i] = 0.1F * static_cast<float>(i % 11);
    return w;
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
    EXPECT_NEAR(std::log(sum) - z[row * 9 + static_cast<size_t>(s.targets.to_doubles()[row])], expected[row], 1e-6);
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

// Nothing here or in the embedding waits for the GPU.
TEST(Classifier, RunsInAGraphWithTheEmbedding) {
  if (!test::on_cuda() || gpu::count() == 0) GTEST_SKIP() << "needs a GPU";
  const Small s;
  auto work = [&s] {
    const Variable x = embedding(s.wte, s.targets, DType::f32);
    backward(classifier_loss(x, s.wte, s.targets, 1.0, 4));
  };
  work();
  const std::vector<double> expected = s.wte.grad().to_doubles();
  gpu::Graph graph;
  graph.capture(work);
  for (int run = 0; run < 2; ++run) {
    s.wte.grad().fill(0);
    graph.launch();
    EXPECT_EQ(s.wte.grad().to_doubles(), expected);
  }
}

TEST(Classifier, HoldsOneChunkOfLogits) {
  if (test::on_cuda()) GTEST_SKIP() << "counts memory of the CPU";
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
  EXPECT_THROW(classifier_loss(s.n, s.wte, Tensor::zeros({5}, DType::i32, test::test_device()), 1.0), Error);
  EXPECT_THROW(classifier_loss(s.n, s.wte, s.targets, 1.0, -1), Error);
  const Variable wide(Tensor::zeros({6, 5}, DType::f32, test::test_device()));
  EXPECT_THROW(classifier_loss(wide, s.wte, s.targets, 1.0), Error);
  if (test::on_cuda()) return;  // there targets were checked by the caller
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
