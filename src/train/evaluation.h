// Validation loss.
#pragma once

#include <cstdint>
#include <span>

#include <functional>

#include "data/loader.h"
#include "dist/communicator.h"
#include "model/transformer.h"
#include "train/run_config.h"

namespace t6::train {

struct Evaluation {
  double loss = 0;  // nats a token, every position of every window alike
  uint64_t tokens = 0;
  double perplexity() const;
};

// The windows a run is evaluated on: evenly spaced ones, or, for sampling `random`, drawn with replacement from `seed`;
// no more than options.windows (0: all). Error(data) when no shard holds a window.
std::vector<data::Window> evaluation_windows(const data::ShardSet& shards, const EvaluationSection& options,
                                             uint64_t window, uint64_t seed);

// Mean loss of the model over `windows`, `batch` at a time, with a progress bar labelled "validation". Ranks take the
// batches in turn; the result is the same on all of them, and bit for bit for any number of them. `on_phase`, when
// given, is called with the name of what comes next, equally often on all ranks: before each batch, or where others
// have one more, and before the wait for all.
Evaluation evaluate(const Transformer& model, const data::ShardSet& shards, std::span<const data::Window> windows,
                    int64_t batch, dist::Communicator& communicator,
                    const std::function<void(const char*)>& on_phase = {});
Evaluation evaluate(const Transformer& model, const data::ShardSet& shards, std::span<const data::Window> windows,
                    int64_t batch);

}  // namespace t6::train
