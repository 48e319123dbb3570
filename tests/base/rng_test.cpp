#include "base/rng.h"

#include <gtest/gtest.h>

namespace t6 {
namespace {

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds).
TEST(Philox, MatchesKnownAnswers) {
  const Philox zero(0, static_cast<RngPurpose>(0), 0);
  EXPECT_EQ(zero.words(0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const Philox ones(~uint64_t{0}, static_cast<RngPurpose>(0xffffffff), 0xffffffff);
  EXPECT_EQ(ones.words(~uint64_t{0}), (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Philox, UniformAndBelowStayInRange) {
  const Philox rng(7, RngPurpose::test);
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = rng.uniform(i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ASSERT_LT(rng.below(i, 10), 10u);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
}

}  // namespace
}  // namespace t6
