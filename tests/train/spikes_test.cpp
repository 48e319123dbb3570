// R15: the detector of loss and gradient norm spikes on curves whose spikes are known.
#include "train/spikes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/rng.h"

namespace t6::train {
namespace {

struct Point {
  double loss, norm;
};

double normal(const Philox& random, uint64_t index) {
  const double u = 1 - random.uniform(2 * index), v = random.uniform(2 * index + 1);
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
}

// A run as they look: the loss falls from 11 to about 3 with 2 % of noise, the norm rises in the warm-up, falls, and is
// wide and skewed, a little wider every now and then.
Point healthy(const Philox& random, int64_t step) {
  const auto t = static_cast<double>(step);
  const double loss = 2.9 + 8.1 * std::exp(-t / 300) + 0.6 * std::exp(-t / 6000);
  const double norm = (0.4 + 3 * std::exp(-t / 400)) * std::min(1.0, 0.2 + t / 100);
  const auto index = static_cast<uint64_t>(step);
  const double wide = random.uniform(1'000'000 + index) < 0.02 ? 1.6 : 1;
  return {loss * std::exp(0.02 * normal(random, index)),
          norm * std::exp(0.18 * wide * normal(random, 10'000'000 + index))};
}

TEST(SpikeDetector, NoFalseAlarmInTwentyThousandSteps) {
  for (const uint64_t seed : {1, 2, 3, 4, 5}) {
    const Philox random(seed, RngPurpose::test);
    SpikeDetector detector({});
    for (int64_t step = 0; step < 20'000; ++step) {
      const Point point = healthy(random, step);
      EXPECT_FALSE(detector.observe(point.loss, point.norm, true)) << "seed " << seed << ", step " << step;
    }
    EXPECT_EQ(detector.spikes(), 0);
    // Nor is it blind: the limits stay near.
    EXPECT_LT(detector.limits().loss, 2.9 * 1.3);
    EXPECT_LT(detector.limits().norm, 0.4 * 5);
  }
}

// Once the loss no longer plunges: loss spikes of 40 % upwards, norm spikes of factor 8 upwards; some of two steps in a
// row.
TEST(SpikeDetector, AllOfTwentySpikesAreFoundAndNothingElse) {
  for (const bool applied : {true, false}) {
    const Philox random(6, RngPurpose::test);
    std::set<int64_t> spikes;
    for (uint64_t i = 0; i < 20; ++i) spikes.insert(1500 + 850 * static_cast<int64_t>(i) + random.below(i, 800));
    for (const int64_t step : {int64_t{19'000}, int64_t{19'001}, int64_t{19'002}}) spikes.insert(step);
    SpikeDetector detector({});
    uint64_t kind = 0;
    for (int64_t step = 0; step < 20'000; ++step) {
      Point point = healthy(random, step);
      const bool spike = spikes.contains(step);
      if (spike && kind % 3 != 1) point.loss *= 1.4 + 2 * random.uniform(5'000'000 + kind);
      if (spike && kind % 3 != 0) point.norm *= 8 + 50 * random.uniform(6'000'000 + kind);
      kind += spike ? 1 : 0;
      EXPECT_EQ(detector.limits().exceeded_by(point.loss, point.norm), spike) << step;
      EXPECT_EQ(!detector.describe(point.loss, point.norm).empty(), spike) << step;
      EXPECT_EQ(detector.observe(point.loss, point.norm, applied || !spike), spike) << step;
    }
    EXPECT_EQ(detector.spikes(), static_cast<int64_t>(spikes.size()));
    EXPECT_EQ(detector.skipped(), applied ? 0 : detector.spikes());
  }
}

TEST(SpikeDetector, NothingIsASpikeBeforeTheWindowIsFullButWhatIsNotFinite) {
  SpikeDetector detector({.window = 50});
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 49; ++i) EXPECT_FALSE(detector.observe(i % 7 == 3 ? 1e6 : 3, 1, true));
  EXPECT_TRUE(detector.observe(kNan, 1, false));
  EXPECT_TRUE(detector.observe(3, kInfinity, false));
  EXPECT_TRUE(detector.observe(3, kNan, true));
  EXPECT_FALSE(detector.limits().exceeded_by(1e300, 1e300));
  EXPECT_FALSE(detector.observe(3, 1, true));
  EXPECT_TRUE(detector.limits().exceeded_by(1e300, 1));
  EXPECT_EQ(detector.spikes(), 3);
  EXPECT_TRUE(std::isfinite(detector.limits().loss));
}

TEST(SpikeDetector, WhatWasNotAppliedLeavesTheLimitsAsTheyWere) {
  const Philox random(7, RngPurpose::test);
  SpikeDetector detector({.max_skipped = 4});
  for (int64_t step = 0; step < 1000; ++step) detector.observe(healthy(random, step).loss, 1, true);
  const SpikeLimits before = detector.limits();
  for (int i = 0; i < 5; ++i) {
    EXPECT_FALSE(detector.exhausted()) << i;
    EXPECT_TRUE(detector.observe(i % 2 == 0 ? 40 : std::numeric_limits<double>::infinity(), 100, false));
    EXPECT_EQ(detector.limits().loss, before.loss);
    EXPECT_EQ(detector.limits().norm, before.norm);
  }
  EXPECT_EQ(detector.skipped_in_a_row(), 5);
  EXPECT_TRUE(detector.exhausted());
  detector.observe(3, 1, true);
  EXPECT_FALSE(detector.exhausted());
  EXPECT_EQ(detector.skipped(), 5);
}

// One that is applied moves the limits a little; a level that stays is normal in time, and spikes above it are found.
TEST(SpikeDetector, AdaptsToALevelThatStays) {
  const Philox random(8, RngPurpose::test);
  SpikeDetector detector({});
  const auto noise = [&](int64_t step) { return std::exp(0.02 * normal(random, static_cast<uint64_t>(step))); };
  int64_t step = 0;
  for (; step < 1000; ++step) detector.observe(3 * noise(step), noise(step), true);
  const SpikeLimits before = detector.limits();
  EXPECT_TRUE(detector.observe(1000, noise(step), true));
  EXPECT_LT(detector.limits().loss, before.loss * 1.03);
  const int64_t spikes = detector.spikes();
  for (int64_t i = 0; i < 1000; ++i, ++step) detector.observe(4.5 * noise(step), noise(step), true);
  EXPECT_GT(detector.spikes(), spikes);
  EXPECT_LT(detector.spikes(), spikes + 128);
  const int64_t settled = detector.spikes();
  for (int64_t i = 0; i < 1000; ++i, ++step) detector.observe(4.5 * noise(step), noise(step), true);
  EXPECT_EQ(detector.spikes(), settled);
  EXPECT_TRUE(detector.observe(6.5, 1, true));
}

TEST(SpikeDetector, AConstantCurveHasNoSpikesOfRounding) {
  SpikeDetector detector({});
  for (int i = 0; i < 500; ++i) EXPECT_FALSE(detector.observe(3 + 1e-6 * (i % 5), 0, true));
  EXPECT_TRUE(detector.observe(3.5, 0, true));
}

TEST(SpikeDetector, IgnoreSeesOnlyWhatIsNotFinite) {
  SpikeDetector detector({.action = SpikeAction::ignore});
  for (int i = 0; i < 500; ++i) EXPECT_FALSE(detector.observe(i % 100 == 99 ? 1e9 : 3, 1, true));
  EXPECT_TRUE(detector.observe(std::numeric_limits<double>::quiet_NaN(), 1, false));
}

TEST(SpikeDetector, StateSurvivesJsonBitForBit) {
  const Philox random(9, RngPurpose::test);
  SpikeDetector whole({.window = 32}), parts({.window = 32});
  for (int64_t step = 0; step < 400; ++step) {
    const Point point = healthy(random, step);
    const bool applied = step % 37 != 36;
    whole.observe(applied ? point.loss : 50, point.norm, applied);
    parts.observe(applied ? point.loss : 50, point.norm, applied);
    SpikeDetector next({.window = 32});
    next.restore(nlohmann::json::parse(parts.state().dump()), "test");
    parts = next;
    ASSERT_EQ(whole.limits().loss, parts.limits().loss) << step;
    ASSERT_EQ(whole.limits().norm, parts.limits().norm) << step;
    ASSERT_EQ(whole.skipped_in_a_row(), parts.skipped_in_a_row());
    ASSERT_EQ(whole.spikes(), parts.spikes());
  }
  EXPECT_GT(whole.skipped(), 5);
}

TEST(SpikeDetector, AStateThatIsNoneIsRefused) {
  const nlohmann::json good = SpikeDetector({}).state();
  std::vector<nlohmann::json> bad{nullptr, nlohmann::json::array(), "text", 5};
  for (const auto& [name, value] : good.items()) {
    for (const nlohmann::json& wrong : {nlohmann::json(), nlohmann::json("x"), nlohmann::json(-1)}) {
      bad.push_back(good);
      bad.back()[name] = wrong;
    }
    bad.push_back(good);
    bad.back().erase(name);
  }
  bad.push_back(good);
  bad.back()["loss"] = {1, -1};
  for (const nlohmann::json& state : bad) {
    SpikeDetector detector({});
    try {
      detector.restore(state, "step-00000005");
      ADD_FAILURE() << state.dump();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::checkpoint);
      EXPECT_NE(std::string(error.what()).find("step-00000005"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace t6::train
