// One optimizer step: gradients over micro-batches, clipping, the update.
#pragma once

#include <functional>

#include "model/transformer.h"
#include "train/optimizer.h"

namespace t6::train {

// Token ids of one micro-batch, i32 [B, T] each.
struct MicroBatch {
  Tensor tokens, targets;
};

struct StepOptions {
  int64_t micro_steps = 1;
  Accumulation accumulation = Accumulation::mean;
  Recompute recompute = Recompute::none;
  double clip_norm = 1.0;  // 0: never
};

struct StepResult {
  double loss = 0;       // mean over the micro-batches, nats a token
  double grad_norm = 0;  // before clipping, of the accumulated gradient
  double clip = 1;       // what the gradient was multiplied with
};

// Loss and gradient of the micro-batches that `next` hands out (called options.micro_steps times), left in the model's
// flat gradient: their mean, or their sum. grad_norm and clip are set; nothing is updated.
StepResult accumulate_gradient(const Transformer& model, const std::function<MicroBatch()>& next,
                               const StepOptions& options);

}  // namespace t6::train
