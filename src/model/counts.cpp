#include "model/counts.h"

#include <algorithm>

#include "ops/classifier.h"

namespace t6 {

ModelCounts count(const Transformer& model) {
  const ModelConfig& config = model.config();
  ModelCounts counts;
  counts.parameters = model.parameters().count();
  model.parameters().for_each_view([&](const Parameter& p, const ParameterView& v) {
    if (p.is_matrix()) counts.matmul_parameters += v.shape.numel();
  });
  const AttentionWork work = model.attention().work();
  const double full = 6.0 * static_cast<double>(config.layers * config.context) *
                      static_cast<double>(work.heads * (work.qk_width + work.v_width));
  counts.flops_causal = 6.0 * static_cast<double>(counts.matmul_parameters) + full / 2;
  counts.flops_full = 6.0 * static_cast<double>(counts.matmul_parameters) + full;
  counts.flops_contraction = 6.0 * static_cast<double>(config.layers * work.contraction);
  counts.cache_numbers = config.layers * numbers_per_token(model.attention().cache_layout());
  return counts;
}

MemoryEstimate estimate_memory(const Transformer& model, int64_t micro_batch, DType compute, Recompute recompute) {
  const ModelConfig& config = model.config();
  const int64_t tokens = micro_batch * config.context, width = config.width;
  const auto element = static_cast<int64_t>(size_of(compute));
  const auto wide = static_cast<int64_t>(size_of(accumulate_dtype(compute)));  // residual stream, masters, moments

  MemoryEstimate estimate;
  const int64_t copies = 4 * wide + (compute == DType::bf16 ? element : 0);  // master, gradient, two moments
  estimate.parameters = model.parameters().storage_size() * copies;

  // A token's share of one block: two residual sums and two normed inputs, attention's own, gate | up and their
  // product.
  const int64_t residual = width * (wide + element);
  const int64_t mlp = 3 * padded(config.feed_forward_width(), kPadding) * element;
  const int64_t attention = model.attention().saved_numbers() * element;
  const int64_t whole = 2 * residual + attention + mlp;
  const int64_t kept = recompute == Recompute::block       ? residual
                       : recompute == Recompute::attention ? whole - attention
                                                           : whole;
  estimate.activations = tokens * (config.layers * kept + residual + width * element);
  // The peak is where the logits are, or in the last block's backward: the MLP's gradients, beside what was rebuilt and
  // less what its MLP no longer needs by the time attention is rebuilt.
  const Device device = model.parameters().master().device();
  const int64_t logits =
      std::min(tokens, classifier_chunk_rows(device)) * config.vocab_size * (device.is_cuda() ? element : wide);
  const int64_t rebuilt = recompute == Recompute::attention ? std::max<int64_t>(0, attention - mlp) : whole - kept;
  estimate.activations += std::max(logits, tokens * (rebuilt + mlp));
  return estimate;
}

}  // namespace t6
