// A short training whose work any number of ranks can share: what one rank computes of it, by any communicator.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "support/small_model.h"
#include "train/step.h"

namespace t6::test {

struct Shares {
  int world = 1;
  bool zero = false;
  Reduction reduction = Reduction::fast;
  Accumulation accumulation = Accumulation::mean;
  DType compute = DType::f32;
  int64_t global = 12;  // micro-batches a step
  int64_t merged = 1;   // this many of them, one of each of as many ranks, are one micro-batch of a single rank
  AttentionKind kind = AttentionKind::tpa;
  Device device = kCpu;
  bool cuda_graph = false;
};

struct TrainedRank {
  std::vector<double> losses, norms;
  std::vector<double> weights;
  bool operator==(const TrainedRank&) const = default;
};

// Micro-batch i of step s is the same for every number of ranks. Targets follow from tokens: there is something to
// learn.
inline train::MicroBatch batch_of(int64_t step, int64_t index) {
  const Tensor tokens = random_tokens(2, 9, 37, static_cast<uint64_t>(1000 * step + index));
  const Tensor targets = tokens.clone();
  for (int64_t i = 0; i < targets.numel(); ++i) {
    int32_t& id = targets.data<int32_t>()[i];
    id = (5 * id + 3) % 37;
  }
  return {tokens, targets};
}

// Micro-batch j of each of `parts` ranks, as one of parts times as many windows.
inline train::MicroBatch merged_batch(int64_t step, int64_t j, int64_t parts, int64_t micro_steps) {
  std::vector<int32_t> tokens, targets;
  for (int64_t part = 0; part < parts; ++part) {
    const train::MicroBatch one = batch_of(step, part * micro_steps + j);
    tokens.insert(tokens.end(), one.tokens.data<int32_t>(), one.tokens.data<int32_t>() + one.tokens.numel());
    targets.insert(targets.end(), one.targets.data<int32_t>(), one.targets.data<int32_t>() + one.targets.numel());
  }
  const Shape shape{2 * parts, 9};
  return {Tensor::from<int32_t>(shape, tokens), Tensor::from<int32_t>(shape, targets)};
}

// Some buckets for every number of ranks.
inline ModelConfig wide_model(AttentionKind kind) {
  ModelConfig config = small_model_config(kind);
  config.width = 80;
  return config;
}

inline TrainedRank train_rank(const Shares& shares, dist::Communicator& communicator, int64_t steps) {
  Transformer model(wide_model(shares.kind));
  const int64_t size = model.parameters().storage_size();
  const int64_t granularity = train::Partition::granularity(shares.world);
  const train::DataParallel parallel{.communicator = &communicator,
                                     .partition = train::Partition(padded(size, granularity), shares.world, 1),
                                     .reduction = shares.reduction,
                                     .zero = shares.zero};
  model.allocate(shares.compute, shares.device, granularity, parallel.updated());
  model.parameters().initialise(5);
  T6_CHECK(shares.world == 1 || parallel.partition.buckets().size() > 2, "the model has too few buckets");
  train::AdamW optimizer(model.parameters(), OptimizerSection{}, parallel.updated());
  const int64_t micro_steps = shares.global / (shares.world * shares.merged);
  train::TrainingStep step(
      model, optimizer,
      {.micro_steps = micro_steps, .accumulation = shares.accumulation, .cuda_graph = shares.cuda_graph}, parallel);
  TrainedRank trained;
  for (int64_t s = 1; s <= steps; ++s) {
    int64_t next = communicator.rank() * micro_steps;
    step.run(s, 1e-3 * std::min(1.0, static_cast<double>(s) / 20), [&] {
      return shares.merged == 1 ? batch_of(s, next++) : merged_batch(s, next++, shares.merged, micro_steps);
    });
    const train::StepResult result = step.finish();
    trained.losses.push_back(result.loss);
    trained.norms.push_back(result.grad_norm);
  }
  trained.weights = model.parameters().compute().to_doubles();
  trained.weights.resize(static_cast<size_t>(size));  // without the padding, which differs
  return trained;
}

// The largest |a - b| / |b|; infinite when their sizes differ or a number is none.
inline double worst(const std::vector<double>& a, const std::vector<double>& b) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  if (a.size() != b.size()) return kInfinite;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = std::abs(a[i] - b[i]) / std::max(1e-30, std::abs(b[i]));
    worst = std::isnan(distance) ? kInfinite : std::max(worst, distance);
  }
  return worst;
}

}  // namespace t6::test
