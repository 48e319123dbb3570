// A model of training on many ranks: how long a step takes, from how long one rank was measured to compute.
//
// Ranks compute alike and add up their gradients (docs/scaling.md has the formulas). It knows bandwidths only: no
// latency, no rank that is slower than the others, no congestion.
#pragma once

#include <cstdint>

#include "nn/parameter.h"

namespace t6::train {

struct Links {
  int64_t ranks_per_node = 1;
  int64_t nodes = 1;
  // Bytes a second. Among the ranks of a node: of an all-reduce of n ranks as NCCL's tests print it ("busbw"), 2(n-1)/n
  // bytes/time. Between nodes: what one node sends, and at once receives, over all its network cards.
  double node_bandwidth = 475e9;
  double network_bandwidth = 400e9;

  int64_t world() const { return ranks_per_node * nodes; }
};

// Seconds until `bytes` that each rank holds are added up and spread, a slice a rank: half of an all-reduce. Within the
// nodes first, then between them.
struct ExchangeTime {
  double node = 0, network = 0;
  double total() const { return node + network; }
};
ExchangeTime reduce_scatter_time(const Links& links, double bytes);

// Of one rank in one step.
struct StepWork {
  int64_t micro_steps = 1;
  double micro_seconds = 0;      // forward and backward of a micro-batch
  double optimizer_seconds = 0;  // of all parameters; 0 where micro_seconds holds it
  double gradient_bytes = 0;     // what is exchanged
  double tail_bytes = 0;         // of these, ready only at the end of backward: see tail_bytes()
  double overlap = 0.8;          // share of the last backward pass beside which exchanges run
  bool zero = false;             // each rank updates its slice, then all parameters are gathered
};

enum class Bound : uint8_t {
  compute,  // nothing is exchanged, or nearly all of it beside the backward pass
  tail,     // the embedding's gradient, which is complete only when backward ends
  node,     // bandwidth within the nodes
  network,  // bandwidth between the nodes
  gather,   // the parameters' way back after a sharded update
};

struct StepPrediction {
  double compute = 0;        // seconds, with the update
  double communication = 0;  // seconds, all of it
  double exposed = 0;        // of these, in which nothing is computed
  double step = 0;           // compute + exposed
  double efficiency = 1;     // of one rank's time for the same windows a rank over `step`
  Bound bound = Bound::compute;
  double exposed_share() const { return step > 0 ? exposed / step : 0; }
};
StepPrediction predict_step(const Links& links, const StepWork& work);

// Bytes of f32 gradient in the buckets that hold some of the first parameter of the store: the embedding, which is the
// head too and so the last to be complete. Buckets of bucket_bytes cut the flat buffer from its beginning.
double tail_bytes(const ParameterStore& store, int64_t bucket_bytes);

// How a step's windows are divided: global_batch, raised to the next multiple of `world` where it is none, and the
// largest micro-batch up to `micro_batch` that divides a rank's share of it.
struct Batches {
  int64_t global_batch, micro_batch, micro_steps;
};
Batches divide_batch(int64_t global_batch, int64_t micro_batch, int64_t world);

// The least number of micro-steps with which the efficiency reaches `goal`: exposed time does not grow with them.
int64_t micro_steps_for(const StepPrediction& prediction, const StepWork& work, double goal);
// How many times as long a micro-step must be for its backward pass to hide all but the tail; 1 where it does already
// or no length helps.
double growth_that_hides(const Links& links, const StepWork& work);

}  // namespace t6::train
