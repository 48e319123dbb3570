// One optimizer step: gradients over micro-batches and ranks, their norm, the update.
//
// On a GPU a step is asked for and the host goes on: the loss is fetched later, so that the GPU never waits for the
// host. The same calls on a CPU do the work at once.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "data/token_hash.h"
#include "model/transformer.h"
#include "ops/global_norm.h"
#include "tensor/gpu.h"
#include "train/data_parallel.h"
#include "train/gradient_exchange.h"
#include "train/optimizer.h"

namespace t6::train {

// Token ids of one micro-batch, i32 [B, T] each, in host memory.
struct MicroBatch {
  Tensor tokens, targets;
};

struct StepOptions {
  int64_t micro_steps = 1;  // of each rank
  Accumulation accumulation = Accumulation::mean;
  Recompute recompute = Recompute::none;
  double clip_norm = 1.0;   // 0: never
  bool cuda_graph = false;  // on a GPU: micro-steps after the first are one captured graph
  bool skip_bad = false;    // a step that is not applied keeps no later one from being applied
};

// What every rank tells all others with each step, so that they decide alike.
struct Vote {
  int32_t stop = 0;          // a signal's number, or what the trainer means by it
  int32_t saving = 0;        // state of a save under way
  data::TokenHash consumed;  // of its own windows
};

// What a step may ask beyond the ordinary.
struct StepRequest {
  NormLimits limits;           // a gradient norm or loss above them is not applied
  std::function<Vote()> vote;  // called after the last micro-batch, before other ranks are waited for
};

struct StepResult {
  double loss = 0;          // mean over the micro-batches of all ranks, nats a token
  double grad_norm = 0;     // before clipping, of the accumulated gradient
  double clip = 1;          // what the gradient was multiplied with; not finite: nothing was applied
  std::vector<Vote> votes;  // of all ranks
};

class TrainingStep {
 public:
  // For an allocated model and its optimizer, which both outlive it. Without ranks: one.
  TrainingStep(const Transformer& model, AdamW& optimizer, const StepOptions& options);
  TrainingStep(const Transformer& model, AdamW& optimizer, const StepOptions& options, DataParallel parallel);
  ~TrainingStep();

  // Update number `step`, counted from 1, by the mean or the sum of the gradients of the micro-batches that `next`
  // hands out (called micro_steps times on each rank). Where loss or gradient norm is not finite nothing is applied, by
  // this step and, as the host may learn of it late, unless options.skip_bad, by later ones.
  void run(int64_t step, double lr, const std::function<MicroBatch()>& next, const StepRequest& request = {});

  // Steps that were run and not finished; run() allows kMaxUnfinished of them.
  static constexpr int kMaxUnfinished = 2;
  int64_t unfinished() const { return run_ - finished_; }
  // Result of the oldest of them; waits until it is there.
  StepResult finish();

 private:
  struct Batches;
  struct Result;

  using NextBatch = std::function<MicroBatch()>;
  void accumulate(const NextBatch& next);
  void accumulate_tree(int64_t first, int64_t count, size_t depth, const NextBatch& next);
  void micro_step(int64_t index, const MicroBatch& batch);
  void forward_backward(const MicroBatch& batch);
  Tensor sum_of_losses();
  void exchange_votes(const Vote& vote);
  Tensor held(size_t depth);

  const Transformer& model_;
  AdamW& optimizer_;
  StepOptions options_;
  DataParallel parallel_;
  GradientExchange exchange_;
  double scale_;                      // of a micro-batch's loss
  Tensor loss_;                       // f64 [1] on the device: scaled, of the last micro-step
  Tensor losses_;                     // f64 [world x micro_steps]: of the step
  Tensor votes_;                      // i32 [world, kVoteWords]
  Tensor norm_and_clip_;              // of the step before
  std::vector<Tensor> held_;          // gradients that wait for their sibling in the tree, by depth
  std::unique_ptr<Batches> batches_;  // on a GPU
  bool warm_ = false;                 // a micro-step has run, so nothing is left to be chosen or allocated
  gpu::Graph graph_;
  std::array<std::unique_ptr<Result>, kMaxUnfinished> results_;  // of step i at i % kMaxUnfinished
  int64_t run_ = 0, finished_ = 0;
};

}  // namespace t6::train
