// The small model that the shared tests of attention kinds build, its weights and its tokens.
#pragma once

#include <vector>

#include "base/rng.h"
#include "model/transformer.h"

namespace t6::test {

// Odd on purpose: F = 26 and most packed widths are padded, heads are no power of two. Vocabulary 37, context 24.
inline ModelConfig small_model_config(AttentionKind kind) {
  ModelConfig config;
  config.attention = default_options(kind);
  if (auto* options = std::get_if<mla::Options>(&config.attention)) *options = {24, 20, 4};
  config.layers = 2;
  config.width = 10;
  config.heads = 6;
  config.head_width = 8;
  config.vocab_size = 37;
  config.context = 24;
  return config;
}

// Random weights everywhere, also where training starts from zero: matrices in +-spread / 2.
inline void fill_random(Transformer& model, uint64_t seed = 5, double spread = 1) {
  ParameterStore& store = model.parameters();
  uint64_t stream = 0;
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    const Philox rng(seed, RngPurpose::test, stream++);
    std::vector<double> values(static_cast<size_t>(v.shape.numel()));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = (rng.uniform(i) - 0.5) * spread + (p.is_matrix() ? 0.0 : 1.0);
    store.assign(p, v, Tensor::from<double>(v.shape, values));
  });
}

inline void allocate_random(Transformer& model, DType dtype, uint64_t seed = 5, Device device = kCpu) {
  model.allocate(dtype, device);
  fill_random(model, seed);
}

// i32 [batch, count] below `vocabulary`.
inline Tensor random_tokens(int64_t batch, int64_t count, int64_t vocabulary, uint64_t stream = 100) {
  const Philox rng(6, RngPurpose::test, stream);
  std::vector<int32_t> ids(static_cast<size_t>(batch * count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(rng.below(i, static_cast<uint64_t>(vocabulary)));
  }
  return Tensor::from<int32_t>({batch, count}, ids);
}

}  // namespace t6::test
