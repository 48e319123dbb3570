#include "ops/simd_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace t6 {
namespace {

std::vector<float> exps(const std::vector<float>& x) {
  std::vector<float> y(x.size());
#pragma omp simd
  for (size_t i = 0; i < x.size(); ++i) y[i] = simd_exp(x[i]);
  return y;
}

TEST(SimdMath, ExpIsWithinOneUlp) {
  std::vector<float> x;
  for (int64_t i = 0; i <= 4'000'000; ++i)
    x.push_back(static_cast<float>(-87.0 + 175.7 * static_cast<double>(i) / 4e6));
  const std::vector<float> y = exps(x);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
    worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / ulp);
  }
  EXPECT_LE(worst, 1.1);
}

TEST(SimdMath, ExpAtTheEnds) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> y = exps({0.0F, -0.0F, -kInfinity, kInfinity, -1e30F, 1e30F, 89.0F, -104.0F, NAN, -100.0F});
  EXPECT_EQ(y[0], 1.0F);
  EXPECT_EQ(y[1], 1.0F);
  EXPECT_EQ(y[2], 0.0F);
  EXPECT_EQ(y[3], kInfinity);
  EXPECT_EQ(y[4], 0.0F);
  EXPECT_EQ(y[5], kInfinity);
  EXPECT_EQ(y[6], kInfinity);
  EXPECT_EQ(y[7], 0.0F);
  EXPECT_TRUE(std::isnan(y[8]));
  EXPECT_NEAR(y[9], std::exp(-100.0), 2e-45);  // a subnormal
}

TEST(SimdMath, SigmoidHasNoOverflow) {
  EXPECT_EQ(simd_sigmoid(-1000.0F), 0.0F);
  EXPECT_EQ(simd_sigmoid(1000.0F), 1.0F);
  EXPECT_NEAR(simd_sigmoid(0.3F), 1 / (1 + std::exp(-0.3)), 1e-7);
}

}  // namespace
}  // namespace t6
