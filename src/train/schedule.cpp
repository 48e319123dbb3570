#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace t6::train {

double learning_rate(const OptimizerSection& optimizer, const ScheduleSection& schedule, int64_t steps, int64_t step) {
  const double lr = optimizer.lr, min_lr = optimizer.min_lr;
  if (step < schedule.warmup_steps) return lr * static_cast<double>(step) / static_cast<double>(schedule.warmup_steps);
  if (schedule.kind == ScheduleKind::constant) return lr;

  const int64_t length = schedule.decay_length(steps);
  const int64_t begin = schedule.kind == ScheduleKind::wsd ? steps - length : schedule.warmup_steps;
  if (step < begin) return lr;
  const double r = length > 0 ? std::min(1.0, static_cast<double>(step - begin) / static_cast<double>(length)) : 1.0;
  if (schedule.kind == ScheduleKind::cosine) return min_lr + (lr - min_lr) * (1 + std::cos(std::numbers::pi * r)) / 2;
  return lr + (min_lr - lr) * r;
}

}  // namespace t6::train
