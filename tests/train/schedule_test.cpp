#include "train/schedule.h"

#include <gtest/gtest.h>

namespace t6::train {
namespace {

struct Case {
  ScheduleKind kind;
  int64_t warmup, decay;
};

std::vector<double> rates(const Case& c, int64_t steps, std::vector<int64_t> at) {
  OptimizerSection optimizer;
  optimizer.lr = 1.0;
  optimizer.min_lr = 0.2;
  ScheduleSection schedule;
  schedule.kind = c.kind;
  schedule.warmup_steps = c.warmup;
  schedule.decay_steps = c.decay;
  std::vector<double> out;
  for (int64_t step : at) out.push_back(learning_rate(optimizer, schedule, steps, step));
  return out;
}

void expect_rates(const std::vector<double>& got, const std::vector<double>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-12) << i;
}

TEST(Schedule, WarmupStartsAtZero) {
  expect_rates(rates({ScheduleKind::cosine, 10, 0}, 110, {0, 1, 5, 10}), {0, 0.1, 0.5, 1.0});
}

TEST(Schedule, CosineEndsAtTheMinimum) {
  expect_rates(rates({ScheduleKind::cosine, 10, 0}, 110, {35, 60, 110, 200}),
               {0.2 + 0.8 * (1 + std::sqrt(0.5)) / 2, 0.6, 0.2, 0.2});
}

TEST(Schedule, CosineWithItsOwnLength) {
  expect_rates(rates({ScheduleKind::cosine, 10, 40}, 110, {30, 50, 100}), {0.6, 0.2, 0.2});
}

TEST(Schedule, Linear) {
  expect_rates(rates({ScheduleKind::linear, 10, 0}, 110, {10, 60, 110}), {1.0, 0.6, 0.2});
}

TEST(Schedule, Constant) {
  expect_rates(rates({ScheduleKind::constant, 4, 0}, 110, {2, 4, 109}), {0.5, 1.0, 1.0});
}

TEST(Schedule, WarmupStableDecay) {
  expect_rates(rates({ScheduleKind::wsd, 10, 20}, 110, {10, 89, 90, 100, 110}), {1.0, 1.0, 1.0, 0.6, 0.2});
}

}  // namespace
}  // namespace t6::train
