#include "train/memory_advice.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/format.h"
#include "dist/tree.h"
#include "ops/attention_backend.h"

namespace t6::train {
namespace {

std::string size_text(int64_t bytes) {
  return format_memory(static_cast<uint64_t>(bytes));
}

}  // namespace

MemoryOptions memory_options(const RunConfig& config, Device device, int64_t world, bool assume_cudnn) {
  const bool bf16_on_gpu = device.is_cuda() && config.train.precision == Precision::bf16;
  const bool tree = config.train.reduction == Reduction::tree;
  return {.micro_batch = config.train.micro_batch,
          .compute = dtype_for(config.train.precision),
          .recompute = config.train.recompute,
          .device = device,
          .cudnn = bf16_on_gpu &&
                   (assume_cudnn || (attention_backend().kernels != AttentionKernels::own && cudnn_available())),
          .deterministic = config.run.determinism == Determinism::strict,
          .cuda_graph = device.is_cuda() && config.train.cuda_graph,
          .world = world,
          .zero = config.optimizer.zero,
          .micro_steps = std::max<int64_t>(1, config.train.global_batch / (config.train.micro_batch * world)),
          .tree = tree,
          .scratch = tree && world > 1 ? dist::kTreeScratch : 0,
          .async_save = config.checkpoint.async};
}

std::string what_would_fit(const Transformer& model, const RunConfig& config, Device device, int64_t bytes,
                           int64_t world) {
  const TrainSection& now = config.train;
  RunConfig other = config;
  // Of what costs little first: the copy of a save on a CPU, the captured graph on a GPU.
  const bool spares = device.is_cuda() ? now.cuda_graph : config.checkpoint.async;
  const std::string sparing = device.is_cuda() ? "train.cuda_graph=false " : "checkpoint.async=false ";
  const auto needs = [&](int64_t batch, Recompute recompute, bool spared) {
    other.train.micro_batch = batch;
    other.train.recompute = recompute;
    other.train.cuda_graph = now.cuda_graph && !(spared && device.is_cuda());
    other.checkpoint.async = config.checkpoint.async && !(spared && device.is_cpu());
    return estimate_memory(model, memory_options(other, device, world)).on_device();
  };
  for (int64_t batch = now.micro_batch; batch >= 1; --batch) {
    if (now.global_batch % (batch * world) != 0) continue;
    for (const Recompute recompute : {Recompute::none, Recompute::qkv, Recompute::attention, Recompute::block}) {
      if (recompute < now.recompute) continue;
      for (const bool spared : {false, true}) {
        if (spared ? !spares : batch == now.micro_batch && recompute == now.recompute) continue;
        const int64_t needed = needs(batch, recompute, spared);
        if (needed > bytes) continue;
        std::string settings;
        if (batch != now.micro_batch) settings += fmt::format("train.micro_batch={} ", batch);
        if (recompute != now.recompute) settings += fmt::format("train.recompute={} ", config::name_of(recompute));
        if (spared) settings += sparing;
        return fmt::format("{}(about {}) would fit", settings, size_text(needed));
      }
    }
  }
  return fmt::format("no setting fits: train.micro_batch=1 train.recompute=block {}needs about {}",
                     spares ? sparing : "", size_text(needs(1, Recompute::block, spares)));
}

std::string why_no_room(const Transformer& model, const RunConfig& config, const MemoryEstimate& needed,
                        const HostMemory& host) {
  const int64_t all = needed.on_host() * host.ranks;
  if (all <= host.bytes) return "";
  const std::string ranks = host.ranks > 1 ? fmt::format(" for {} ranks", host.ranks) : "";
  if (needed.device.is_cuda()) {
    return fmt::format(
        "beside the GPU the run needs about {} of this machine's memory{} to save while it trains, and there are {}; "
        "checkpoint.async=false needs none",
        size_text(all), ranks, size_text(host.bytes));
  }
  return fmt::format("the run needs about {}{}, this machine has {}; {}", size_text(all), ranks, size_text(host.bytes),
                     what_would_fit(model, config, needed.device, host.bytes / host.ranks, host.world));
}

}  // namespace t6::train
