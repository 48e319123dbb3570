// What a config needs of a device's memory, and what to change in it where that does not fit.
#pragma once

#include <cstdint>
#include <string>

#include "model/counts.h"
#include "model/transformer.h"
#include "train/run_config.h"

namespace t6::train {

// How the config's steps run on `device`, for estimate_memory(). Where attention might run on cuDNN it looks whether that
// is there; `assume_cudnn`: without looking, for a device that is not this machine's.
MemoryOptions memory_options(const RunConfig& config, Device device, bool assume_cudnn = false);

// A clause for messages: the settings closest to the config's whose estimate for `device` (model/counts.h) is at most `bytes`, as
// "train.recompute=block (about 61.2G) would fit". Recomputation is tried before smaller micro-batches, which keep
// dividing train.global_batch. When nothing fits: how much the smallest setting needs.
std::string what_would_fit(const Transformer& model, const RunConfig& config, Device device, int64_t bytes);

}  // namespace t6::train
