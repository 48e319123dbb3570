#include "ops/global_norm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/rng.h"

namespace t6 {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor random_tensor(int64_t count, uint64_t stream) {
  const Philox rng(11, RngPurpose::test, stream);
  Tensor t = Tensor::empty({count}, DType::f32);
  for (int64_t i = 0; i < count; ++i) {
    t.data<float>()[i] = static_cast<float>(rng.uniform(static_cast<uint64_t>(i)) - 0.5);
  }
  return t;
}

TEST(GlobalNorm, SumsEveryElementOnce) {
  memory::set_poison(true);
  const std::vector<Tensor> tensors{random_tensor(1, 0), random_tensor(kSquaresBlock, 1),
                                    Tensor::zeros({0}, DType::f32), random_tensor(3 * kSquaresBlock + 17, 2)};
  double expected = 0;
  for (const Tensor& t : tensors) {
    for (const double x : t.to_doubles()) expected += x * x;
  }
  const double sum = sum_of_squares(tensors).item();
  EXPECT_NEAR(sum, expected, 1e-12 * expected);
  EXPECT_NO_THROW(memory::check_guards());
  memory::set_poison(false);
}

TEST(GlobalNorm, SameForEveryThreadCount) {
  const std::vector<Tensor> tensors{random_tensor(100'001, 0), random_tensor(54'321, 1)};
  const int threads = omp_get_max_threads();
  std::vector<double> sums;
  for (const int count : {1, 2, 3, 5}) {
    omp_set_num_threads(count);
    sums.push_back(sum_of_squares(tensors).item());
  }
  omp_set_num_threads(threads);
  for (const double sum : sums) EXPECT_EQ(sum, sums[0]);
}

std::vector<double> clip(double sum, double max_norm) {
  return norm_and_clip(Tensor::full({1}, DType::f64, sum), max_norm).to_doubles();
}

TEST(GlobalNorm, ClipFactor) {
  EXPECT_EQ(clip(25.0, 1.0), (std::vector<double>{5.0, static_cast<double>(0.2F)}));
  EXPECT_EQ(clip(0.25, 1.0), (std::vector<double>{0.5, 1.0}));
  EXPECT_EQ(clip(1.0, 1.0), (std::vector<double>{1.0, 1.0}));
  EXPECT_EQ(clip(0.0, 1.0), (std::vector<double>{0.0, 1.0}));
  EXPECT_EQ(clip(1e12, kInfinity), (std::vector<double>{1e6, 1.0}));
  EXPECT_THROW(clip(1.0, 0.0), Error);
}

TEST(GlobalNorm, LargeButFiniteGradientsStayFinite) {
  const Tensor t = Tensor::full({4}, DType::f32, 1e30);
  const std::vector<double> out = norm_and_clip(sum_of_squares({t}), 1.0).to_doubles();
  EXPECT_NEAR(out[0], 2e30, 1e24);
  EXPECT_NEAR(out[1], 5e-31, 1e-37);
}

TEST(GlobalNorm, NonFiniteElementsShow) {
  for (const double bad : {kInfinity, -kInfinity, std::nan("")}) {
    const Tensor t = random_tensor(20'000, 3);
    t.data<float>()[12'345] = static_cast<float>(bad);
    const Tensor sum = sum_of_squares({random_tensor(100, 4), t});
    EXPECT_FALSE(std::isfinite(sum.item()));
    const std::vector<double> out = norm_and_clip(sum, 1.0).to_doubles();
    EXPECT_FALSE(std::isfinite(out[0]));
    EXPECT_TRUE(std::isnan(out[1]));
  }
}

TEST(GlobalNorm, RejectsOtherDtypes) {
  EXPECT_THROW(sum_of_squares({}), Error);
  EXPECT_THROW(sum_of_squares({Tensor::zeros({4}, DType::bf16)}), Error);
}

}  // namespace
}  // namespace t6
