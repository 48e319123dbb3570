#include "train/scaling.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace t6::train {
namespace {

constexpr double kBackward = 2.0 / 3;  // of a micro-step: two products for each one of forward

// What may run beside the last backward pass: all of an all-reduce, or the first half of it where parameters are
// gathered after the update.
double beside_backward(const Links& links, const StepWork& work) {
  return reduce_scatter_time(links, work.gradient_bytes).total() * (work.zero ? 1 : 2);
}

double tail_seconds(const Links& links, const StepWork& work) {
  return reduce_scatter_time(links, work.tail_bytes).total() * (work.zero ? 1 : 2);
}

}  // namespace

ExchangeTime reduce_scatter_time(const Links& links, double bytes) {
  const auto ranks = static_cast<double>(links.ranks_per_node), nodes = static_cast<double>(links.nodes);
  return {.node = (ranks - 1) / ranks * bytes / links.node_bandwidth,
          .network = (nodes - 1) / nodes * bytes / links.network_bandwidth};
}

StepPrediction predict_step(const Links& links, const StepWork& work) {
  T6_CHECK(links.ranks_per_node > 0 && links.nodes > 0 && links.node_bandwidth > 0 && links.network_bandwidth > 0,
           "[scaling] expected ranks, nodes and bandwidths above zero, got {} x {} at {} and {}", links.nodes,
           links.ranks_per_node, links.node_bandwidth, links.network_bandwidth);
  const auto micro_steps = static_cast<double>(work.micro_steps);
  const auto world = static_cast<double>(links.world());
  const double alone = micro_steps * work.micro_seconds + work.optimizer_seconds;
  const ExchangeTime half = reduce_scatter_time(links, work.gradient_bytes);

  StepPrediction p;
  p.compute = micro_steps * work.micro_seconds + work.optimizer_seconds / (work.zero ? world : 1);
  p.communication = 2 * half.total();
  const double tail = tail_seconds(links, work);
  const double late = beside_backward(links, work) - work.overlap * kBackward * work.micro_seconds;
  const double gather = work.zero ? half.total() : 0;
  p.exposed = std::max(tail, late) + gather;
  p.step = p.compute + p.exposed;
  p.efficiency = p.step > 0 ? alone / p.step : 1;
  if (p.exposed_share() < 0.01) {
    p.bound = Bound::compute;
  } else if (gather > std::max(tail, late)) {
    p.bound = Bound::gather;
  } else if (tail >= late) {
    p.bound = Bound::tail;
  } else {
    p.bound = half.network > half.node ? Bound::network : Bound::node;
  }
  return p;
}

double tail_bytes(const ParameterStore& store, int64_t bucket_bytes) {
  const int64_t bucket = std::max<int64_t>(1, bucket_bytes / static_cast<int64_t>(sizeof(float)));
  const int64_t embedding = store.parameters().front().storage_shape().numel();
  return static_cast<double>(std::min(padded(embedding, bucket), store.storage_size())) * sizeof(float);
}

Batches divide_batch(int64_t global_batch, int64_t micro_batch, int64_t world) {
  T6_CHECK(global_batch > 0 && micro_batch > 0 && world > 0,
           "[scaling] expected batches and ranks above zero, got {} {} {}", global_batch, micro_batch, world);
  const int64_t share = (global_batch + world - 1) / world;
  int64_t micro = std::min(micro_batch, share);
  while (share % micro != 0) --micro;
  return {share * world, micro, share / micro};
}

int64_t micro_steps_for(const StepPrediction& prediction, const StepWork& work, double goal) {
  if (prediction.efficiency >= goal || work.micro_seconds <= 0) return work.micro_steps;
  const double beside = prediction.step - static_cast<double>(work.micro_steps) * work.micro_seconds;
  // goal = (k t + o) / (k t + beside), o the update on one rank
  const double least = (goal * beside - work.optimizer_seconds) / (1 - goal) / work.micro_seconds;
  return std::max(work.micro_steps, static_cast<int64_t>(std::ceil(least - 1e-9)));
}

double growth_that_hides(const Links& links, const StepWork& work) {
  const double room = work.overlap * kBackward * work.micro_seconds;
  const double to_hide = beside_backward(links, work) - tail_seconds(links, work);
  return room > 0 ? std::max(1.0, to_hide / room) : 1.0;
}

}  // namespace t6::train
