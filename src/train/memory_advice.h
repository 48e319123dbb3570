// What a config needs of a device's memory, and what to change in it where that does not fit.
#pragma once

#include <cstdint>
#include <string>

#include "model/counts.h"
#include "model/transformer.h"
#include "train/run_config.h"

namespace t6::train {

// How the config's steps run on `device` of each of `world` ranks, for estimate_memory(). Where attention might run on
// cuDNN it looks whether that is there; `assume_cudnn`: without looking, for a device that is not this machine's.
MemoryOptions memory_options(const RunConfig& config, Device device, int64_t world = 1, bool assume_cudnn = false);

// A clause for messages: the settings closest to the config's whose estimate for `device` of a rank (model/counts.h) is
// at most `bytes`, as "train.recompute=block (about 61.2G) would fit". A save that training waits for (on a CPU) or no
// captured graph (on a GPU) is tried before recomputation (of a little, q, k and v, before
// of more), and that before smaller micro-batches, which keep dividing a
// rank's share of train.global_batch. When nothing fits: how much the smallest setting needs.
std::string what_would_fit(const Transformer& model, const RunConfig& config, Device device, int64_t bytes,
                           int64_t world = 1);

// Of a host: what it may use, and what its ranks need of it.
struct HostMemory {
  int64_t bytes = 0;
  int64_t ranks = 1;  // on this host, of `world`
  int64_t world = 1;
};
// Why a run that needs `needed` on each rank does not fit into the host's memory, with what would; empty where it does.
std::string why_no_room(const Transformer& model, const RunConfig& config, const MemoryEstimate& needed,
                        const HostMemory& host);

}  // namespace t6::train
