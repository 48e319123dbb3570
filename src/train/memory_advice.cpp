#include "train/memory_advice.h"

#include <fmt/format.h>

#include "base/format.h"
#include "model/counts.h"

namespace t6::train {
namespace {

int64_t estimate(const Transformer& model, const RunConfig& config, int64_t micro_batch, Recompute recompute) {
  const DType compute = dtype_for(config.train.precision);
  return estimate_memory(model, micro_batch, compute, recompute).total();
}

std::string size_text(int64_t bytes) {
  return format_memory(static_cast<uint64_t>(bytes));
}

}  // namespace

std::string what_would_fit(const Transformer& model, const RunConfig& config, int64_t bytes) {
  const TrainSection& now = config.train;
  for (int64_t batch = now.micro_batch; batch >= 1; --batch) {
    if (now.global_batch % batch != 0) continue;
    for (const Recompute recompute : {Recompute::none, Recompute::attention, Recompute::block}) {
      if (recompute < now.recompute || (batch == now.micro_batch && recompute == now.recompute)) continue;
      const int64_t needed = estimate(model, config, batch, recompute);
      if (needed > bytes) continue;
      std::string settings;
      if (batch != now.micro_batch) settings += fmt::format("train.micro_batch={} ", batch);
      if (recompute != now.recompute) settings += fmt::format("train.recompute={} ", config::name_of(recompute));
      return fmt::format("{}(about {}) would fit", settings, size_text(needed));
    }
  }
  return fmt::format("no setting fits: train.micro_batch=1 train.recompute=block needs about {}",
                     size_text(estimate(model, config, 1, Recompute::block)));
}

}  // namespace t6::train
