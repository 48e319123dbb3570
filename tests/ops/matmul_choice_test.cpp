// How the algorithms of GPU products are chosen. Skipped on the CPU, which has no choice.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/rng.h"
#include "ops/matmul.h"
#include "support/device.h"
#include "tensor/tensor.h"

namespace t6 {
namespace {

constexpr Device kGpu{Device::Kind::cuda, 0};

Tensor random_matrix(int64_t rows, int64_t columns, DType dtype, uint64_t stream) {
  const Philox rng(7, RngPurpose::test, stream);
  std::vector<double> values(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < values.size(); ++i) values[i] = rng.uniform(i) - 0.5;
  return Tensor::from<double>({rows, columns}, values).to(dtype).to(kGpu);
}

class MatmulChoices : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!test::on_cuda() || gpu::count() == 0) GTEST_SKIP() << "needs a GPU";
    set_matmul_choice(MatmulChoice::first);
    set_matmul_choice(MatmulChoice::timed);  // nothing chosen yet
  }
  void TearDown() override {
    if (test::on_cuda() && gpu::count() > 0) SetUp();
  }

  // Large enough to be worth timing; rows of C have gaps.
  static constexpr int64_t kM = 520, kN = 512, kK = 512, kLdc = 544;

  MatmulArgs product(const Tensor& c, bool accumulate) {
    if (!a_.defined()) {
      a_ = random_matrix(kM, kK, DType::bf16, 1);
      b_ = random_matrix(kN, kK, DType::bf16, 2);
    }
    return {a_.raw(), b_.raw(), c.raw(), kM, kN, kK, kK, kK, kLdc, false, true, accumulate, DType::bf16, DType::f32};
  }
  Tensor a_, b_;
};

TEST_F(MatmulChoices, TimingLeavesWhatIsAddedTo) {
  for (const bool accumulate : {true, false}) {
    const Tensor before = random_matrix(kM, kLdc, DType::f32, 3);
    const Tensor timed = before.clone(), again = before.clone();
    matmul(kGpu, product(timed, accumulate));
    const std::vector<MatmulAlgorithm> made = matmul_algorithms();
    ASSERT_EQ(made.size(), accumulate ? 1 : 2);
    EXPECT_GT(made.back().candidates, 1);
    EXPECT_GT(made.back().microseconds, 0);
    matmul(kGpu, product(again, accumulate));
    EXPECT_EQ(matmul_algorithms().size(), made.size());  // known by now

    // The first call, which timed, gave what the second did, and neither wrote between the rows.
    const std::vector<double> x = timed.to_doubles(), y = again.to_doubles(), was = before.to_doubles();
    EXPECT_EQ(x, y);
    for (int64_t i = 0; i < kM; ++i) {
      for (int64_t j = kN; j < kLdc; ++j) {
        const auto at = static_cast<size_t>(i * kLdc + j);
        ASSERT_EQ(x[at], was[at]) << "wrote between rows";
      }
    }
    const std::vector<double> av = a_.to_doubles(), bv = b_.to_doubles();
    for (const int64_t i : {int64_t{0}, kM - 1}) {
      for (const int64_t j : {int64_t{0}, kN - 1}) {
        double sum = accumulate ? was[static_cast<size_t>(i * kLdc + j)] : 0.0;
        for (int64_t k = 0; k < kK; ++k) {
          sum += av[static_cast<size_t>(i * kK + k)] * bv[static_cast<size_t>(j * kK + k)];
        }
        EXPECT_NEAR(x[static_cast<size_t>(i * kLdc + j)], sum, 1e-4);
      }
    }
  }
}

TEST_F(MatmulChoices, FirstMeasuresNothingAndIsListed) {
  set_matmul_choice(MatmulChoice::first);
  EXPECT_TRUE(matmul_algorithms().empty());
  const Tensor c = Tensor::zeros({kM, kLdc}, DType::f32, kGpu);
  matmul(kGpu, product(c, true));
  const std::vector<MatmulAlgorithm> made = matmul_algorithms();
  ASSERT_EQ(made.size(), 1);
  EXPECT_EQ(made[0].microseconds, 0);
  EXPECT_EQ(made[0].product.m, kM);
  EXPECT_EQ(made[0].product.ldc, kLdc);
  EXPECT_TRUE(made[0].product.accumulate && made[0].product.transpose_b && !made[0].product.transpose_a);
  EXPECT_EQ(made[0].product.a, nullptr);
  const std::string text = to_string(made[0]);
  EXPECT_EQ(text.find("bf16 -> f32 [520, 512] += [520, 512] [512, 512]^T, ld 512 512 544: algorithm "), 0) << text;
  EXPECT_NE(text.find("not measured"), std::string::npos) << text;

  set_matmul_choice(MatmulChoice::first);  // no change: nothing is forgotten
  EXPECT_EQ(matmul_algorithms().size(), 1);
  set_matmul_choice(MatmulChoice::timed);
  EXPECT_TRUE(matmul_algorithms().empty());
}

TEST_F(MatmulChoices, SmallProductsAreNotMeasured) {
  const Tensor a = random_matrix(64, 64, DType::f32, 1), c = Tensor::empty({64, 64}, DType::f32, kGpu);
  matmul(kGpu, {a.raw(), a.raw(), c.raw(), 64, 64, 64, 64, 64, 64});
  ASSERT_EQ(matmul_algorithms().size(), 1);
  EXPECT_EQ(matmul_algorithms()[0].microseconds, 0);
}

// Inside a capture nothing can be measured; the graph runs the product as often as it is launched.
TEST_F(MatmulChoices, UnseenProductInAGraph) {
  prepare_matmul(kGpu);
  const Tensor c = Tensor::zeros({kM, kLdc}, DType::f32, kGpu), once = c.clone();
  const MatmulArgs args = product(c, true);
  gpu::Graph graph;
  graph.capture([&] { matmul(kGpu, args); });
  ASSERT_EQ(matmul_algorithms().size(), 1);
  EXPECT_EQ(matmul_algorithms()[0].microseconds, 0);
  for (const double x : c.to_doubles()) ASSERT_EQ(x, 0);  // captured, not run
  graph.launch();
  graph.launch();
  matmul(kGpu, product(once, true));
  const std::vector<double> twice = c.to_doubles(), expected = once.to_doubles();
  for (size_t i = 0; i < twice.size(); ++i) ASSERT_NEAR(twice[i], 2 * expected[i], 1e-4);
}

}  // namespace
}  // namespace t6
