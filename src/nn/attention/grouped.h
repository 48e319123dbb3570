// Softmax attention with grouped key/value heads: what mha, mqa and gqa are.
#pragma once

#include "nn/attention/attention.h"
#include "nn/linear.h"

namespace t6 {

// q, k, v linear in n, one packed product; RoPE on q and k; query head j reads key/value head j / (H / G).
class GroupedAttention : public Attention {
 public:
  GroupedAttention(ParameterStore& store, const std::string& prefix, const AttentionShape& shape, int64_t kv_heads);

  Variable forward(const Variable& n, const AttentionContext& context) const override;
  Tensor decode(const Tensor& n, const AttentionContext& context, LayerCache& cache) const override;
  CacheLayout cache_layout() const override;
  AttentionWork work() const override { return {heads_, width_, width_, 0}; }
  int64_t saved_numbers() const override { return 2 * (heads_ + kv_heads_) * width_; }  // q, k, v, o
  int64_t rope_width() const override { return width_; }

 private:
  int64_t heads_, kv_heads_, width_;
  Linear qkv_, out_;
};

}  // namespace t6
