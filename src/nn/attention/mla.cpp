#include "nn/attention/mla.h"

#include <cmath>

#include "nn/linear.h"
#include "ops/attention.h"
#include "ops/head_copy.h"
#include "ops/linear.h"
#include "ops/matmul.h"
#include "ops/rms_norm.h"
#include "tensor/parallel.h"

namespace t6 {
namespace {

constexpr double kInnerNormEps = 1e-6;

// q = W_qb norm(W_qa n), a head (nope | rope); W_kva n = (c | k_rope); W_kvb norm(c), a head (k nope | v). W_qa and
// W_kva are one product, so that the gradient of n is one sum, rounded once.
class LatentAttention : public Attention {
 public:
  LatentAttention(ParameterStore& store, const std::string& prefix, const AttentionShape& s, const mla::Options& o);

  Variable forward(const Variable& n, const AttentionContext& context) const override;
  Tensor decode(const Tensor& n, const AttentionContext& context, LayerCache& cache) const override;

  // norm(c) and the turned k_rope, side by side.
  CacheLayout cache_layout() const override { return {{"latent", {latent_ + rope_}}}; }
  AttentionWork work() const override { return {heads_, nope_ + rope_, nope_, 0}; }
  int64_t saved_numbers() const override {
    return 2 * (q_rank_ + latent_)                        // codes, before and after their norms
           + heads_ * (2 * (nope_ + rope_) + 2 * nope_);  // q, k, v, o
  }
  int64_t rope_width() const override { return rope_; }

 private:
  MlaWidths widths() const { return {heads_, nope_, nope_}; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(nope_ + rope_)); }
  // (W_qa n | c | k_rope), before norms and not turned.
  std::vector<Variable> codes(const Variable& n) const {
    return split_columns(a_.forward(n), {q_rank_, latent_, rope_});
  }
  Variable queries(const Variable& code) const;  // [rows, H (nope + rope)], not turned

  // f(head) for every head. Products of a few rows are too small for a team of threads each, so heads are shared out.
  template <class F>
  void for_heads(int64_t rows, Device device, F&& f) const {
    constexpr int64_t kFewRows = 8;
    parallel_for(heads_, device.is_cpu() && rows <= kFewRows ? 1 : heads_, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) f(h);
    });
  }

  int64_t heads_, nope_, rope_, q_rank_, latent_;
  Linear a_;
  const Parameter* q_norm_;
  Linear q_b_;
  const Parameter* kv_norm_;
  const Parameter* kv_b_;
  Linear out_;
};

Init fan_in(int64_t width) {
  return Init::uniform(1 / std::sqrt(static_cast<double>(width)));
}

LatentAttention::LatentAttention(ParameterStore& store, const std::string& prefix, const AttentionShape& s,
                                 const mla::Options& o)
    : heads_(s.heads),
      nope_(s.head_width),
      rope_(o.rope_width),
      q_rank_(o.q_rank),
      latent_(o.kv_rank),
      a_(store,
         {{prefix + "q_a_proj.weight", {o.q_rank, s.width}, fan_in(s.width), 0},
          {prefix + "kv_a_proj_with_mqa.weight", {o.kv_rank + o.rope_width, s.width}, fan_in(s.width), o.q_rank}},
         s.width, padded(o.q_rank + o.kv_rank + o.rope_width, kPadding)),
      q_norm_(&store.declare({{prefix + "q_a_layernorm.weight", {o.q_rank}, Init::one(), 0}}, {o.q_rank})),
      q_b_(store, prefix + "q_b_proj.weight", o.q_rank, s.heads * (s.head_width + o.rope_width), fan_in(o.q_rank)),
      kv_norm_(&store.declare({{prefix + "kv_a_layernorm.weight", {o.kv_rank}, Init::one(), 0}}, {o.kv_rank})),
      kv_b_(
          &store.declare({{prefix + "kv_b_proj.weight", {s.heads * 2 * s.head_width, o.kv_rank}, fan_in(o.kv_rank), 0}},
                         {s.heads * 2 * s.head_width, o.kv_rank})),
      out_(store, prefix + "c_proj.weight", s.heads * s.head_width, s.width, Init::zero()) {}

Variable LatentAttention::queries(const Variable& code) const {
  return q_b_.forward(rms_norm(code, kInnerNormEps, code.dtype(), q_norm_->variable()));
}

Variable LatentAttention::forward(const Variable& n, const AttentionContext& c) const {
  const std::vector<Variable> parts = codes(n);
  const Variable code = rms_norm(parts[1], kInnerNormEps, n.dtype(), kv_norm_->variable());
  const Variable kv = linear(code, kv_b_->variable());
  const Qkv qkv = mla_qkv(split_tokens(queries(parts[0]), c), split_tokens(kv, c), split_tokens(parts[2], c), widths(),
                          *c.rope, c.position);
  const Variable o = attention(qkv.q, qkv.k, qkv.v, scale());
  return out_.forward(reshape(o, {c.batch * c.tokens, heads_ * nope_}));
}

// Attention in the latent space, so that keys and values are never rebuilt: with W_k, W_v the halves of a head's rows
// of W_kvb,
//   q_nope . (W_k c) = (q_nope W_k) . c   and   sum_m p_m W_v c_m = W_v (sum_m p_m c_m),
// which is one key/value head of width latent + rope shared by all query heads.
Tensor LatentAttention::decode(const Tensor& n, const AttentionContext& c, LayerCache& cache) const {
  const NoGrad no_grad;
  const int64_t rows = c.batch * c.tokens, record = latent_ + rope_, head = nope_ + rope_;
  const DType dtype = n.dtype();
  auto at = [](const Tensor& t, int64_t element) {
    return static_cast<std::byte*>(t.raw()) + static_cast<size_t>(element) * size_of(t.dtype());
  };
  const std::vector<Variable> parts = codes(Variable(n));
  const Tensor code = rms_norm(parts[1], kInnerNormEps, dtype, kv_norm_->variable()).value();
  const Tensor records = Tensor::empty({rows, record}, dtype, n.device());
  HeadCopyArgs join;
  join.rows = rows;
  join.window = c.tokens;
  join.offset = c.position;
  join.cos = c.rope->cos.raw();
  join.sin = c.rope->sin.raw();
  join.dtype = dtype;
  join.add({.source = code.raw(),
            .destination = records.raw(),
            .width = latent_,
            .source_row = latent_,
            .destination_row = record});
  join.add({.source = parts[2].value().raw(),
            .destination = at(records, latent_),
            .width = rope_,
            .source_row = rope_,
            .destination_row = record,
            .rotation = 1});
  head_copy(n.device(), join);
  cache.append(0, records);
  cache.advance(c.tokens);

  const Tensor q = mla_q(split_tokens(queries(parts[0]), c), widths(), *c.rope, c.position).value();
  const Tensor latent_q = Tensor::empty({c.batch, c.tokens, heads_, record}, dtype, n.device());
  const Tensor latent_o = Tensor::empty({rows, heads_ * nope_}, dtype, n.device());
  const Tensor w = kv_b_->variable().value();
  for_heads(rows, n.device(), [&](int64_t h) {
    matmul(n.device(), {.a = at(q, h * head),
                        .b = at(w, h * 2 * nope_ * latent_),
                        .c = at(latent_q, h * record),
                        .m = rows,
                        .n = latent_,
                        .k = nope_,
                        .lda = heads_ * head,
                        .ldb = latent_,
                        .ldc = heads_ * record,
                        .in_dtype = dtype,
                        .out_dtype = dtype});
  });
  HeadCopyArgs turned;
  turned.rows = rows;
  turned.dtype = dtype;
  turned.add({.source = at(q, nope_),
              .destination = at(latent_q, latent_),
              .heads = heads_,
              .width = rope_,
              .source_row = heads_ * head,
              .source_head = head,
              .destination_row = heads_ * record,
              .destination_head = record});
  head_copy(n.device(), turned);
  const Tensor latent = cache.slot(0);
  const Tensor mixed = attention_decode(latent_q, latent.view({c.batch, cache.capacity(), 1, record}),
                                        latent.view({c.batch, cache.capacity(), 1, record}), c.position, scale());
  for_heads(rows, n.device(), [&](int64_t h) {
    matmul(n.device(), {.a = at(mixed, h * record),
                        .b = at(w, (2 * h + 1) * nope_ * latent_),
                        .c = at(latent_o, h * nope_),
                        .m = rows,
                        .n = nope_,
                        .k = latent_,
                        .lda = heads_ * record,
                        .ldb = latent_,
                        .ldc = heads_ * nope_,
                        .transpose_b = true,
                        .in_dtype = dtype,
                        .out_dtype = dtype});
  });
  return out_.forward(Variable(latent_o)).value();
}

}  // namespace

std::unique_ptr<Attention> mla::make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                     const Options& options) {
  return std::make_unique<LatentAttention>(store, prefix, shape, options);
}

}  // namespace t6
