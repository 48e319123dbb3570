// The learning rate over a run.
#pragma once

#include <cstdint>

#include "train/run_config.h"

namespace t6::train {

// Rate of the update that makes step + 1 of `steps` (step counts from 0):
//   warm-up   lr step / warmup_steps, so step 0 has rate 0 when there is a warm-up
//   cosine    min_lr + (lr - min_lr) (1 + cos(pi r)) / 2, r the fraction of the decay done; min_lr after it
//   linear    lr + (min_lr - lr) r
//   constant  lr
//   wsd       lr, then linear to min_lr over the last decay_steps
double learning_rate(const OptimizerSection& optimizer, const ScheduleSection& schedule, int64_t steps, int64_t step);

}  // namespace t6::train
