#include "train/memory_advice.h"

#include <fmt/format.h>

#include "base/format.h"
#include "ops/attention_backend.h"

namespace t6::train {
namespace {

std::string size_text(int64_t bytes) {
  return format_memory(static_cast<uint64_t>(bytes));
}

}  // namespace

MemoryOptions memory_options(const RunConfig& config, Device device, bool assume_cudnn) {
  const bool bf16_on_gpu = device.is_cuda() && config.train.precision == Precision::bf16;
  return {.micro_batch = config.train.micro_batch,
          .compute = dtype_for(config.train.precision),
          .recompute = config.train.recompute,
          .device = device,
          .cudnn = bf16_on_gpu &&
                   (assume_cudnn || (attention_backend().kernels != AttentionKernels::own && cudnn_available())),
          .deterministic = config.run.determinism == Determinism::strict,
          .cuda_graph = device.is_cuda() && config.train.cuda_graph};
}

std::string what_would_fit(const Transformer& model, const RunConfig& config, Device device, int64_t bytes) {
  const TrainSection& now = config.train;
  MemoryOptions options = memory_options(config, device);
  const auto needs = [&](int64_t batch, Recompute recompute) {
    options.micro_batch = batch;
    options.recompute = recompute;
    return estimate_memory(model, options).on_device();
  };
  for (int64_t batch = now.micro_batch; batch >= 1; --batch) {
    if (now.global_batch % batch != 0) continue;
    for (const Recompute recompute : {Recompute::none, Recompute::attention, Recompute::block}) {
      if (recompute < now.recompute || (batch == now.micro_batch && recompute == now.recompute)) continue;
      const int64_t needed = needs(batch, recompute);
      if (needed > bytes) continue;
      std::string settings;
      if (batch != now.micro_batch) settings += fmt::format("train.micro_batch={} ", batch);
      if (recompute != now.recompute) settings += fmt::format("train.recompute={} ", config::name_of(recompute));
      return fmt::format("{}(about {}) would fit", settings, size_text(needed));
    }
  }
  return fmt::format("no setting fits: train.micro_batch=1 train.recompute=block needs about {}",
                     size_text(needs(1, Recompute::block)));
}

}  // namespace t6::train
