#include "train/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/progress.h"
#include "tensor/gpu.h"

namespace t6::train {

double Evaluation::perplexity() const {
  return std::exp(loss);
}

std::vector<data::Window> evaluation_windows(const data::ShardSet& shards, const EvaluationSection& options,
                                             uint64_t window, uint64_t seed) {
  const auto count = static_cast<uint64_t>(options.windows);
  if (options.sampling == EvaluationSampling::fixed) {
    return data::fixed_validation_windows(shards.token_counts(), window, count == 0 ? UINT64_MAX : count);
  }
  const data::Sampler sampler(data::SampleOrder::random_window, seed, window, shards.token_counts());
  const uint64_t rows = count == 0 ? sampler.windows_per_epoch() : count;
  const data::BatchPlan plan{.global_batch = rows, .micro_batch = 1};
  std::vector<data::Window> windows;
  for (uint64_t row = 0; row < rows; ++row) windows.push_back(sampler.row(plan, 0, row));
  return windows;
}

Evaluation evaluate(const Transformer& model, const data::ShardSet& shards, std::span<const data::Window> windows,
                    int64_t batch, dist::Communicator& communicator, const std::function<void(const char*)>& on_phase) {
  const gpu::Range range("evaluation");
  const NoGrad no_grad;
  const int64_t window = model.config().context;
  const auto size = static_cast<size_t>(batch);
  const size_t batches = (windows.size() + size - 1) / size, world = static_cast<size_t>(communicator.world());
  // Where a batch's sum is another rank's to know it stays zero, and adding zeros is exact.
  std::vector<double> sums(batches, 0);
  Progress progress(
      {.label = "validation", .unit = "window", .total = windows.size(), .plain_lines = false, .summary = false});
  for (size_t first = 0; first < batches; first += world) {
    if (on_phase) on_phase("validation");
    const size_t i = first + static_cast<size_t>(communicator.rank());
    if (i >= batches) break;  // of the last round
    const auto part = windows.subspan(i * size, std::min(size, windows.size() - i * size));
    const Shape shape{static_cast<int64_t>(part.size()), window};
    const Tensor tokens = Tensor::empty(shape, DType::i32), targets = Tensor::empty(shape, DType::i32);
    const auto count = static_cast<size_t>(shape.numel());
    data::read_windows(shards, part, static_cast<uint64_t>(window), {tokens.data<int32_t>(), count},
                       {targets.data<int32_t>(), count});
    // Windows weigh alike, so a batch's mean counts by its windows.
    sums[i] = model.loss(tokens, targets, 1.0).value().item() * static_cast<double>(part.size());
    progress.set(std::min(windows.size(), (i + world) * size));
  }
  if (on_phase) on_phase("waiting for the validation of all ranks");
  if (world > 1) {
    const Tensor all =
        Tensor::from<double>({static_cast<int64_t>(batches)}, sums).to(model.parameters().compute().device());
    communicator.all_reduce(all);
    communicator.wait();
    sums = all.to_doubles();
  }
  const double sum = std::accumulate(sums.begin(), sums.end(), 0.0);
  return {.loss = sum / static_cast<double>(std::max<size_t>(1, windows.size())),
          .tokens = windows.size() * static_cast<uint64_t>(window)};
}

Evaluation evaluate(const Transformer& model, const data::ShardSet& shards, std::span<const data::Window> windows,
                    int64_t batch) {
  return evaluate(model, shards, windows, batch, dist::one_rank());
}

}  // namespace t6::train
