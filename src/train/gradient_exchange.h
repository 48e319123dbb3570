// The sum of all ranks' gradients, bucket by bucket while the backward pass still runs.
//
// Backward goes through the layers from last to first, and so through the flat gradient from its end: the hook of the
// last parameter that lies in a bucket sends it off. The embedding, which is also the head, comes last.
#pragma once

#include <vector>

#include "train/data_parallel.h"

namespace t6::train {

class GradientExchange {
 public:
  // Both outlive it. On several ranks it sets the ready-hooks of all parameters.
  GradientExchange(const ParameterStore& store, const DataParallel& parallel);
  ~GradientExchange();
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  // Before the backward pass that completes the gradient.
  void begin();
  // After it. The gradient, with a sharded optimizer only what this rank owns of it, is the sum over ranks for what is
  // asked for next.
  void finish();

  // Of that sum, f64 [1]; the same bits on all ranks, and for every world size where the gradients are.
  Tensor sum_of_squares() const;

 private:
  void ready(size_t first_bucket, size_t last_bucket);
  void send(size_t bucket);

  const ParameterStore& store_;
  const DataParallel& parallel_;
  std::vector<int> readers_;  // by bucket: parameters that lie in it
  std::vector<int> pending_;  // of these, not ready yet
  bool active_ = false;
};

}  // namespace t6::train
