// Which tokens every row of every batch holds: pure functions of (seed, order, step, row), with no state to save.
//
// A window is T + 1 consecutive tokens of one shard: inputs are its first T, targets its last T (the same tokens,
// shifted by one). Windows never cross shards.
//
// shuffled: shard s of n tokens has floor((n - 1) / T) windows, window w starting at token w * T. Neighbours share one
//   token, so every token but a shard's first is a target once, and at most T tokens at a shard's end are never used.
//   One epoch visits every window exactly once, in an order that is a keyed permutation of (seed, epoch), computed
//   without storing it. Row r of step s is position s * global_batch + r of the endless sequence epoch 0, epoch 1, ...;
//   a batch may straddle two epochs. Neither world size nor micro-batch size changes it.
// random_window: the TPA authors' way, with replacement: each micro-batch draws one shard uniformly, then each of its
//   rows a uniform start in it. The draw depends on the micro-batch's number within the global batch, so it is the same
//   for any world size, but not for another micro-batch size.
//
// Rows of a global batch: rank r holds the slice [r, r + 1) * global_batch / world, and its micro-step m the slice
// [m, m + 1) * micro_batch of that.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace t6::data {

enum class SampleOrder { shuffled, random_window };

struct Window {
  uint32_t shard = 0;
  uint64_t offset = 0;  // of its first token within the shard
  bool operator==(const Window&) const = default;
  auto operator<=>(const Window&) const = default;
};

// How one global batch is divided. Counts are windows.
struct BatchPlan {
  uint64_t global_batch = 1;
  uint64_t micro_batch = 1;
  uint32_t rank = 0;
  uint32_t world = 1;

  // Error(usage) unless global_batch is a multiple of micro_batch * world and rank < world.
  void check() const;
  uint64_t micro_steps() const { return global_batch / (micro_batch * world); }  // of each rank
  // The row of the global batch that a rank's micro-step starts with.
  uint64_t first_row(uint64_t micro_step) const { return (rank * micro_steps() + micro_step) * micro_batch; }
};

// A permutation of [0, n) keyed by (seed, epoch): a balanced Feistel network over the next even power of two, walked
// until it lands below n (four rounds of walking at most in the mean). O(1) memory. n > 0.
class Permutation {
 public:
  Permutation(uint64_t n, uint64_t seed, uint64_t epoch);
  uint64_t operator()(uint64_t index) const;  // index < n

 private:
  uint64_t n_;
  uint64_t seed_;
  uint64_t epoch_;
  int half_bits_;
};

class Sampler {
 public:
  // shard_tokens: tokens of each shard; window: T > 0. Error(data) when no shard holds T + 1 tokens.
  Sampler(SampleOrder order, uint64_t seed, uint64_t window, std::vector<uint64_t> shard_tokens);

  SampleOrder order() const { return order_; }
  uint64_t window() const { return window_; }
  uint64_t windows_per_epoch() const { return first_window_.back(); }  // of the shuffled order

  // Window number `index` of the shuffled order's list, shard by shard. index < windows_per_epoch().
  Window window_at(uint64_t index) const;

  // Row `row` of step `step`, row < plan.global_batch.
  Window row(const BatchPlan& plan, uint64_t step, uint64_t row) const;

  // The plan.micro_batch windows of this rank's micro-step, micro_step < plan.micro_steps().
  std::vector<Window> micro_batch(const BatchPlan& plan, uint64_t step, uint64_t micro_step) const;

 private:
  SampleOrder order_;
  uint64_t seed_;
  uint64_t window_;
  std::vector<uint64_t> shard_tokens_;
  std::vector<uint64_t> first_window_;   // by shard, and the total at the end
  std::vector<uint32_t> usable_shards_;  // those with at least one window
};

// The same `count` evenly spaced windows every time: numbers floor(i * total / count) of the list that the shuffled
// order permutes; all of them when there are no more than count. Error(data) as Sampler.
std::vector<Window> fixed_validation_windows(std::vector<uint64_t> shard_tokens, uint64_t window, uint64_t count);

}  // namespace t6::data
