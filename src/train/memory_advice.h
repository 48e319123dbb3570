// What to change in a config that does not fit a device's memory.
#pragma once

#include <cstdint>
#include <string>

#include "model/transformer.h"
#include "train/run_config.h"

namespace t6::train {

// A clause for messages: the settings closest to the config's whose estimate (model/counts.h) is at most `bytes`, as
// "train.recompute=block (about 61.2G) would fit". Recomputation is tried before smaller micro-batches, which keep
// dividing train.global_batch. When nothing fits: how much the smallest setting needs.
std::string what_would_fit(const Transformer& model, const RunConfig& config, int64_t bytes);

}  // namespace t6::train
