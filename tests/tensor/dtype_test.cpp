#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace t6 {
namespace {

TEST(Bfloat16, StoreRoundsToNearestEvenAndKeepsNaN) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> from{1.0F, 1.00390625F, 1.01171875F, -1.0039064F, kInfinity, -kInfinity, 3.4e38F, 0.0F};
  const std::vector<float> expected{1.0F, 1.0F, 1.015625F, -1.0078125F, kInfinity, -kInfinity, kInfinity, 0.0F};
  std::vector<bfloat16> to(from.size());
#pragma omp simd
  for (size_t i = 0; i < from.size(); ++i) store(to[i], from[i]);
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_EQ(static_cast<float>(to[i]), expected[i]) << from[i];
    EXPECT_EQ(to[i].bits, bfloat16(from[i]).bits);
  }
  for (const uint32_t nan : {0x7F800001U, 0xFFFFFFFFU, 0x7FFFFFFFU}) {
    bfloat16 x;
    store(x, std::bit_cast<float>(nan));
    EXPECT_TRUE(std::isnan(static_cast<float>(x)));
  }
}

TEST(Bfloat16, StoreOfOtherTypesAssigns) {
  float f = 0;
  double d = 0;
  store(f, 1.25F);
  store(d, 1.0 / 3.0);
  EXPECT_EQ(f, 1.25F);
  EXPECT_EQ(d, 1.0 / 3.0);
}

}  // namespace
}  // namespace t6
