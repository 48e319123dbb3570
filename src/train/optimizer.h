// AdamW over the parameters of a store, or over those that a rank owns.
#pragma once

#include <vector>

#include "nn/parameter.h"
#include "train/data_parallel.h"
#include "train/run_config.h"

namespace t6::train {

class AdamW {
 public:
  // Moments start at zero, in the type of the masters. The store must outlive the optimizer.
  AdamW(const ParameterStore& store, const OptimizerSection& options);
  // Of these spans alone, in order and without overlap: all that is kept and updated. Where the store holds masters of
  // some spans alone, of the same.
  AdamW(const ParameterStore& store, const OptimizerSection& options, std::vector<Span> spans);

  // Update number `step`, counted from 1, of f32 masters, from the store's gradient times the clip factor of
  // norm_and_clip (f32 [2], see ops/global_norm.h). Writes masters, moments and the compute copy; nothing where the
  // factor is not finite.
  void step(int64_t step, double lr, const Tensor& norm_and_clip);

  // Flat: the spans one behind the other.
  const Tensor& first_moment() const { return m_; }
  const Tensor& second_moment() const { return v_; }
  const std::vector<Span>& spans() const { return spans_; }

 private:
  // A run of the flat buffers under one weight decay.
  struct Range {
    int64_t begin, count;
    int64_t master, moment;  // where its masters and moments begin
    double weight_decay;
  };

  const ParameterStore& store_;
  OptimizerSection options_;
  std::vector<Span> spans_;
  Tensor m_, v_;
  std::vector<Range> ranges_;
};

}  // namespace t6::train
