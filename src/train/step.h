// One optimizer step: gradients over micro-batches, their norm, the update.
//
// On a GPU a step is asked for and the host goes on: the loss is fetched later, so that the GPU never waits for the
// host. The same calls on a CPU do the work at once.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "model/transformer.h"
#include "tensor/gpu.h"
#include "train/optimizer.h"

namespace t6::train {

// Token ids of one micro-batch, i32 [B, T] each, in host memory.
struct MicroBatch {
  Tensor tokens, targets;
};

struct StepOptions {
  int64_t micro_steps = 1;
  Accumulation accumulation = Accumulation::mean;
  Recompute recompute = Recompute::none;
  double clip_norm = 1.0;   // 0: never
  bool cuda_graph = false;  // on a GPU: micro-steps after the first are one captured graph
};

struct StepResult {
  double loss = 0;       // mean over the micro-batches, nats a token
  double grad_norm = 0;  // before clipping, of the accumulated gradient
  double clip = 1;       // what the gradient was multiplied with; not finite: nothing was applied
};

class TrainingStep {
 public:
  // For an allocated model and its optimizer, which both outlive it.
  TrainingStep(const Transformer& model, AdamW& optimizer, const StepOptions& options);
  ~TrainingStep();

  // Update number `step`, counted from 1, by the mean or the sum of the gradients of the micro-batches that `next` hands
  // out (called micro_steps times). Where loss or gradient norm is not finite nothing is applied, by this step and, as
  // the host may learn of it late, by later ones.
  void run(int64_t step, double lr, const std::function<MicroBatch()>& next);

  // Steps that were run and not finished; run() allows kMaxUnfinished of them.
  static constexpr int kMaxUnfinished = 2;
  int64_t unfinished() const { return run_ - finished_; }
  // Result of the oldest of them; waits until it is there.
  StepResult finish();

 private:
  struct Batches;
  struct Result;

  void accumulate(const MicroBatch& batch);
  void forward_backward(const MicroBatch& batch);

  const Transformer& model_;
  AdamW& optimizer_;
  StepOptions options_;
  double scale_;
  Tensor loss_sum_;                   // f64 [1] on the device: of scale x mean losses
  Tensor norm_and_clip_;              // of the step before
  std::unique_ptr<Batches> batches_;  // on a GPU
  bool warm_ = false;                 // a micro-step has run, so nothing is left to be chosen or allocated
  gpu::Graph graph_;
  std::array<std::unique_ptr<Result>, kMaxUnfinished> results_;  // of step i at i % kMaxUnfinished
  int64_t run_ = 0, finished_ = 0;
};

}  // namespace t6::train
