#include "ops/global_norm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "support/device.h"
#include "support/every_order.h"
#include "support/random_tensor.h"

namespace t6 {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor random_tensor(int64_t count, uint64_t stream) {
  return test::random_tensor({count}, DType::f32, stream, test::test_device());
}

TEST(GlobalNorm, SumsEveryElementOnce) {
  memory::set_poison(true);
  const std::vector<Tensor> tensors{random_tensor(1, 0), random_tensor(kSquaresBlock, 1),
                                    Tensor::zeros({0}, DType::f32, test::test_device()),
                                    random_tensor(3 * kSquaresBlock + 17, 2)};
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

// Where a tensor begins does not matter either.
TEST(GlobalNorm, SameInEveryOrderAndAlignment) {
  const int64_t count = 5 * kSquaresBlock + 4099;
  const Tensor all = random_tensor(count + 1, 0);
  const Tensor shifted = all.slice(1, {count});
  test::expect_same_in_every_order([&] { return std::vector<Tensor>{sum_of_squares({shifted, all})}; });
  EXPECT_EQ(sum_of_squares({shifted}).item(), sum_of_squares({shifted.clone()}).item());
}

TEST(GlobalNorm, ManyPartials) {
  const int64_t count = 1500;  // more than the threads of a block
  const Tensor t = test::random_tensor({count}, DType::f32, 9);
  std::vector<Tensor> tensors;
  double expected = 0;
  for (int64_t i = 0; i < count; ++i) {
    tensors.push_back(t.slice(i, {1}).to(test::test_device()));
    expected += static_cast<double>(t.data<float>()[i]) * static_cast<double>(t.data<float>()[i]);
  }
  EXPECT_NEAR(sum_of_squares(tensors).item(), expected, 1e-12 * expected);
}

std::vector<double> clip(double sum, double max_norm, const Tensor& previous = {}) {
  return norm_and_clip(Tensor::full({1}, DType::f64, sum, test::test_device()), max_norm, previous).to_doubles();
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
  const Tensor t = Tensor::full({4}, DType::f32, 1e30, test::test_device());
  const std::vector<double> out = norm_and_clip(sum_of_squares({t}), 1.0).to_doubles();
  EXPECT_NEAR(out[0], 2e30, 1e24);
  EXPECT_NEAR(out[1], 5e-31, 1e-37);
}

TEST(GlobalNorm, NonFiniteElementsShow) {
  for (const double bad : {kInfinity, -kInfinity, std::nan("")}) {
    const Tensor host = test::random_tensor({20'000}, DType::f32, 3);
    host.data<float>()[12'345] = static_cast<float>(bad);
    const Tensor t = host.to(test::test_device());
    const Tensor sum = sum_of_squares({random_tensor(100, 4), t});
    EXPECT_FALSE(std::isfinite(sum.item()));
    const std::vector<double> out = norm_and_clip(sum, 1.0).to_doubles();
    EXPECT_FALSE(std::isfinite(out[0]));
    EXPECT_TRUE(std::isnan(out[1]));
  }
}

TEST(GlobalNorm, StaysNaNAfterABadStep) {
  Tensor last;
  auto step = [&last](double sum) {
    last = norm_and_clip(Tensor::full({1}, DType::f64, sum, test::test_device()), 1.0, last);
    return last.to_doubles();
  };
  EXPECT_EQ(step(4.0), (std::vector<double>{2.0, 0.5}));
  EXPECT_EQ(step(0.25), (std::vector<double>{0.5, 1.0}));  // a clipped step is no bad one
  EXPECT_TRUE(std::isnan(step(kInfinity)[1]));
  for (int i = 0; i < 3; ++i) {
    const std::vector<double> out = step(4.0);
    EXPECT_EQ(out[0], 2.0);
    EXPECT_TRUE(std::isnan(out[1]));
  }
  last = Tensor();
  EXPECT_EQ(step(4.0)[1], 0.5);
}

TEST(GlobalNorm, RejectsOtherDtypes) {
  EXPECT_THROW(clip(1.0, 1.0, Tensor::zeros({1}, DType::f32, test::test_device())), Error);
  EXPECT_THROW(sum_of_squares({}), Error);
  EXPECT_THROW(sum_of_squares({Tensor::zeros({4}, DType::bf16)}), Error);
}

TEST(GlobalNorm, NothingIsAppliedWhereTheLossIsNotFinite) {
  const Device device = test::test_device();
  const Tensor sum = Tensor::full({1}, DType::f64, 4, device);
  auto clip_under = [&](double loss) {
    return norm_and_clip(sum, 1, {}, Tensor::full({1}, DType::f64, loss, device)).to_doubles();
  };
  EXPECT_EQ(clip_under(3.5), (std::vector<double>{2, 0.5}));
  EXPECT_TRUE(std::isnan(clip_under(INFINITY)[1]));
  EXPECT_TRUE(std::isnan(clip_under(NAN)[1]));
}

}  // namespace
}  // namespace t6
