#include "nn/attention/grouped.h"

#include <cmath>

#include "nn/attention/gqa.h"
#include "nn/attention/mha.h"
#include "nn/attention/mqa.h"
#include "ops/attention.h"

namespace t6 {
namespace {

std::vector<ParameterView> qkv_views(const std::string& prefix, const AttentionShape& s, int64_t kv_heads) {
  const Init init = Init::uniform(1 / std::sqrt(static_cast<double>(s.width)));
  const int64_t q = s.heads * s.head_width, kv = kv_heads * s.head_width;
  return {{prefix + "c_q.weight", {q, s.width}, init, 0},
          {prefix + "c_k.weight", {kv, s.width}, init, q},
          {prefix + "c_v.weight", {kv, s.width}, init, q + kv}};
}

}  // namespace

GroupedAttention::GroupedAttention(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                   int64_t kv_heads)
    : heads_(shape.heads),
      kv_heads_(kv_heads),
      width_(shape.head_width),
      qkv_(store, qkv_views(prefix, shape, kv_heads), shape.width,
           padded((shape.heads + 2 * kv_heads) * shape.head_width, kPadding)),
      out_(store, prefix + "c_proj.weight", shape.heads * shape.head_width, shape.width, Init::zero()) {}

Variable GroupedAttention::forward(const Variable& n, const AttentionContext& c) const {
  const Variable packed = split_tokens(qkv_.forward(n), c);
  const Qkv qkv = qkv_rope(packed, heads_, kv_heads_, *c.rope, c.position);
  const Variable o = attention(qkv.q, qkv.k, qkv.v, 1 / std::sqrt(static_cast<double>(width_)));
  return out_.forward(reshape(o, {c.batch * c.tokens, heads_ * width_}));
}

Tensor GroupedAttention::decode(const Tensor& n, const AttentionContext& c, LayerCache& cache) const {
  const NoGrad no_grad;
  const Variable packed = split_tokens(qkv_.forward(Variable(n)), c);
  const Qkv qkv = qkv_rope(packed, heads_, kv_heads_, *c.rope, c.position);
  cache.append(0, qkv.k.value());
  cache.append(1, qkv.v.value());
  cache.advance(c.tokens);
  const Tensor o = attention_decode(qkv.q.value(), cache.slot(0), cache.slot(1), c.position,
                                    1 / std::sqrt(static_cast<double>(width_)));
  return out_.forward(Variable(o.view({c.batch * c.tokens, heads_ * width_}))).value();
}

CacheLayout GroupedAttention::cache_layout() const {
  return {{"k", {kv_heads_, width_}}, {"v", {kv_heads_, width_}}};
}

std::unique_ptr<Attention> mha::make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                     const Options&) {
  return std::make_unique<GroupedAttention>(store, prefix, shape, shape.heads);
}

std::unique_ptr<Attention> mqa::make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                     const Options&) {
  return std::make_unique<GroupedAttention>(store, prefix, shape, 1);
}

std::unique_ptr<Attention> gqa::make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                     const Options& options) {
  return std::make_unique<GroupedAttention>(store, prefix, shape, options.kv_heads);
}

}  // namespace t6
