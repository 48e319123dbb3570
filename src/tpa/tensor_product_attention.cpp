#include "tpa/tensor_product_attention.h"

#include <cmath>

#include "ops/attention.h"
#include "ops/factor_attention.h"
#include "ops/factor_decode.h"
#include "tpa/tpa.h"
#include "tpa/tpa_kvonly.h"

namespace t6 {
namespace {

// Leading dimensions of products: factor segments to 8 columns, the packed row to 128.
constexpr int64_t kSegmentPadding = 8, kRowPadding = 128;

// Xavier uniform, sqrt(6 / fan_sum). The authors' code draws A on a [C, H, R] view and B on a [C, R, D] view, where
// torch takes the last extent for a receptive field; the paper's bound is that of the matrices themselves.
Init a_init(const AttentionShape& s, int64_t rank) {
  const int64_t fan_sum = s.init == InitKind::official ? rank * (s.heads + s.width) : s.width + s.heads * rank;
  return Init::uniform(std::sqrt(6 / static_cast<double>(fan_sum)));
}
Init b_init(const AttentionShape& s, int64_t rank) {
  const int64_t fan_sum =
      s.init == InitKind::official ? s.head_width * (rank + s.width) : s.width + rank * s.head_width;
  return Init::uniform(std::sqrt(6 / static_cast<double>(fan_sum)));
}

// The factor maps in the order of the packed row.
std::vector<ParameterView> factor_views(const std::string& prefix, const AttentionShape& s, const FactorRanks& ranks,
                                        const FactorLayout& layout) {
  const std::string map = prefix + "c_qkv.";
  auto a = [&](const char* name, const FactorPart& part, int64_t rank) {
    return ParameterView{map + name, {s.heads * rank, s.width}, a_init(s, rank), part.a};
  };
  auto b = [&](const char* name, const FactorPart& part, int64_t rank) {
    return ParameterView{map + name, {rank * s.head_width, s.width}, b_init(s, rank), part.b};
  };
  std::vector<ParameterView> views;
  if (ranks.q > 0) {
    views = {a("W_A_q.weight", layout.q, ranks.q)};
  } else {
    const int64_t rows = s.heads * s.head_width;
    const Init init = Init::uniform(std::sqrt(6 / static_cast<double>(s.width + rows)));
    views = {{map + "c_q.weight", {rows, s.width}, init, layout.q.a}};
  }
  views.push_back(a("W_A_k.weight", layout.k, ranks.k));
  views.push_back(a("W_A_v.weight", layout.v, ranks.v));
  if (ranks.q > 0) views.push_back(b("W_B_q.weight", layout.q, ranks.q));
  views.push_back(b("W_B_k.weight", layout.k, ranks.k));
  views.push_back(b("W_B_v.weight", layout.v, ranks.v));
  return views;
}

FactorLayout layout_of(const AttentionShape& s, const FactorRanks& ranks) {
  return pack_factors(s.heads, s.head_width, ranks.q, ranks.k, ranks.v, kSegmentPadding, kRowPadding);
}

}  // namespace

TensorProductAttention::TensorProductAttention(ParameterStore& store, const std::string& prefix,
                                               const AttentionShape& shape, const FactorRanks& ranks)
    : heads_(shape.heads),
      width_(shape.head_width),
      ranks_(ranks),
      layout_(layout_of(shape, ranks)),
      factors_(store, factor_views(prefix, shape, ranks, layout_), shape.width, layout_.width),
      out_(store, prefix + "c_proj.weight", shape.heads * shape.head_width, shape.width, Init::zero()) {}

Variable TensorProductAttention::forward(const Variable& n, const AttentionContext& c) const {
  const Variable f = split_tokens(factors_.forward(n), c);
  const double scale = 1 / std::sqrt(static_cast<double>(width_));
  const auto attend = [&] {
    const Qkv qkv = factor_contraction(f, layout_, *c.rope, c.position);
    return attention(qkv.q, qkv.k, qkv.v, scale);
  };
  const Variable o = c.rebuild_qkv ? factor_attention(f, layout_, *c.rope, scale, c.position) : attend();
  return out_.forward(reshape(o, {c.batch * c.tokens, heads_ * width_}));
}

Tensor TensorProductAttention::decode(const Tensor& n, const AttentionContext& c, LayerCache& cache) const {
  const NoGrad no_grad;
  const Tensor f = split_tokens(factors_.forward(Variable(n)), c).value();
  const FactorRows rows = rotate_factors(f, layout_, *c.rope, c.position);
  cache.append(0, rows.a_k);
  cache.append(1, rows.b_k);
  cache.append(2, rows.a_v);
  cache.append(3, rows.b_v);
  cache.advance(c.tokens);
  const Tensor q = contract_query(f, layout_, *c.rope, c.position);
  const FactorRows cached{cache.slot(0), cache.slot(1), cache.slot(2), cache.slot(3)};
  const Tensor lengths = Tensor::full({c.batch}, DType::i32, static_cast<double>(cache.length()), n.device());
  const Tensor o = factor_decode(q, cached, lengths, 1 / std::sqrt(static_cast<double>(width_)));
  return out_.forward(Variable(o.view({c.batch * c.tokens, heads_ * width_}))).value();
}

CacheLayout TensorProductAttention::cache_layout() const {
  return {{"a_k", {heads_, ranks_.k}},
          {"b_k", {ranks_.k, width_}},
          {"a_v", {heads_, ranks_.v}},
          {"b_v", {ranks_.v, width_}}};
}

std::unique_ptr<Attention> tpa::make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                     const Options& o) {
  return std::make_unique<TensorProductAttention>(store, prefix, shape, FactorRanks{o.rank_q, o.rank_k, o.rank_v});
}

std::unique_ptr<Attention> tpa_kvonly::make(ParameterStore& store, const std::string& prefix,
                                            const AttentionShape& shape, const Options& o) {
  return std::make_unique<TensorProductAttention>(store, prefix, shape, FactorRanks{0, o.rank_k, o.rank_v});
}

}  // namespace t6
