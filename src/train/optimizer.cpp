#include "train/optimizer.h"

#include <algorithm>

#include "base/error.h"
#include "ops/adamw.h"

namespace t6::train {

AdamW::AdamW(const ParameterStore& store, const OptimizerSection& options)
    : AdamW(store, options, {{0, store.storage_size()}}) {}

AdamW::AdamW(const ParameterStore& store, const OptimizerSection& options, std::vector<Span> spans)
    : store_(store), options_(options), spans_(std::move(spans)) {
  const bool whole = store.master().numel() == store.storage_size();
  T6_CHECK(whole || store.master_spans() == spans_, "[adamw] the masters are not those of the spans to update");
  // Neighbours under the same decay make one range; the alignment gaps between them are zero and stay so.
  std::vector<Range> decays;
  for (const Parameter& p : store.parameters()) {
    const double decay = options.decay == DecayScope::all || p.is_matrix() ? options.weight_decay : 0.0;
    if (decays.empty() || decays.back().weight_decay != decay) decays.push_back({p.offset(), 0, 0, 0, decay});
    decays.back().count = p.offset() + p.storage_shape().numel() - decays.back().begin;
  }
  int64_t moments = 0;
  for (const Span& span : spans_) {
    for (const Range& r : decays) {
      const int64_t begin = std::max(span.begin, r.begin), end = std::min(span.end(), r.begin + r.count);
      const int64_t moment = moments + begin - span.begin;
      if (begin < end) ranges_.push_back({begin, end - begin, whole ? begin : moment, moment, r.weight_decay});
    }
    moments += span.count;
  }
  m_ = Tensor::zeros({moments}, store.master().dtype(), store.master().device());
  v_ = Tensor::zeros({moments}, store.master().dtype(), store.master().device());
}

void AdamW::step(int64_t step, double lr, const Tensor& norm_and_clip) {
  const bool copies = store_.compute_dtype() == DType::bf16;
  for (const Range& r : ranges_) {
    adamw(store_.master().device(), {.parameter = store_.master().data<float>() + r.master,
                                     .gradient = store_.gradient().data<float>() + r.begin,
                                     .m = m_.data<float>() + r.moment,
                                     .v = v_.data<float>() + r.moment,
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
