#include "train/evaluation.h"

#include <algorithm>
#include <cmath>

#include "base/progress.h"

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
                    int64_t batch) {
  const NoGrad no_grad;
  const int64_t window = model.config().context;
  Progress progress(
      {.label = "validation", .unit = "window", .total = windows.size(), .plain_lines = false, .summary = false});
  Evaluation result;
  double sum = 0;
  for (size_t at = 0; at < windows.size();) {
    const auto part = windows.subspan(at, std::min<size_t>(static_cast<size_t>(batch), windows.size() - at));
    const Shape shape{static_cast<int64_t>(part.size()), window};
    const Tensor tokens = Tensor::empty(shape, DType::i32), targets = Tensor::empty(shape, DType::i32);
    const auto count = static_cast<size_t>(shape.numel());
    data::read_windows(shards, part, static_cast<uint64_t>(window), {tokens.data<int32_t>(), count},
                       {targets.data<int32_t>(), count});
    // Windows weigh alike, so a batch's mean counts by its windows.
    sum += model.loss(tokens, targets, 1.0).value().item() * static_cast<double>(part.size());
    at += part.size();
    progress.set(at);
  }
  result.tokens = windows.size() * static_cast<uint64_t>(window);
  result.loss = sum / static_cast<double>(std::max<size_t>(1, windows.size()));
  return result;
}

}  // namespace t6::train
