#include "train/optimizer.h"

#include "ops/adamw.h"

namespace t6::train {

AdamW::AdamW(const ParameterStore& store, const OptimizerSection& options)
    : store_(store),
      options_(options),
      m_(Tensor::zeros(store.master().shape(), store.master().dtype(), store.master().device())),
      v_(Tensor::zeros(store.master().shape(), store.master().dtype(), store.master().device())) {
  // Neighbours under the same decay make one range; the alignment gaps between them are zero and stay so.
  for (const Parameter& p : store.parameters()) {
    const bool decays = options.decay == DecayScope::all || p.is_matrix();
    const double decay = decays ? options.weight_decay : 0.0;
    if (ranges_.empty() || ranges_.back().weight_decay != decay) ranges_.push_back({p.offset(), 0, decay});
    ranges_.back().count = p.offset() + p.storage_shape().numel() - ranges_.back().begin;
  }
}

void AdamW::step(int64_t step, double lr, const Tensor& norm_and_clip) {
  const bool copies = store_.compute_dtype() == DType::bf16;
  for (const Range& r : ranges_) {
    adamw(store_.master().device(), {.parameter = store_.master().data<float>() + r.begin,
                                     .gradient = store_.gradient().data<float>() + r.begin,
                                     .m = m_.data<float>() + r.begin,
                                     .v = v_.data<float>() + r.begin,
                                     .copy = copies ? store_.compute().data<bfloat16>() + r.begin : nullptr,
                                     .clip = norm_and_clip.data<float>() + 1,
                                     .count = r.count,
                                     .step = step,
                                     .lr = lr,
                                     .beta1 = options_.betas[0],
                                     .beta2 = options_.betas[1],
                                     .eps = options_.eps,
                                     .weight_decay = r.weight_decay});
  }
}

}  // namespace t6::train
