// Tensor product attention, second order: what tpa and tpa_kvonly are.
//
//   q[h] = (1/R_Q) sum_r A_Q[h, r] RoPE(B_Q[r])
//   k[h] = (1/R_K) sum_r A_K[h, r] RoPE(B_K[r])
//   v[h] = (1/R_V) sum_r A_V[h, r] B_V[r]
//
// "Tensor Product Attention Is All You Need", arXiv 2501.06425, section 3. All factor maps are one packed product of n;
// training materialises q, k, v, and again in backward where memory asks; decoding keeps the factors,
// (R_K + R_V)(H + D) numbers a token.
#pragma once

#include "nn/attention/attention.h"
#include "nn/linear.h"
#include "ops/factor_contraction.h"

namespace t6 {

struct FactorRanks {
  int64_t q = 0;  // 0: the query is linear in n, as in tpa_kvonly
  int64_t k = 0;
  int64_t v = 0;
};

class TensorProductAttention : public Attention {
 public:
  TensorProductAttention(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                         const FactorRanks& ranks);

  Variable forward(const Variable& n, const AttentionContext& context) const override;
  Tensor decode(const Tensor& n, const AttentionContext& context, LayerCache& cache) const override;
  CacheLayout cache_layout() const override;
  AttentionWork work() const override {
    return {heads_, width_, width_, heads_ * width_ * (ranks_.q + ranks_.k + ranks_.v)};
  }
  int64_t saved_numbers() const override { return layout_.width + 4 * heads_ * width_; }  // factors, q, k, v, o
  int64_t rebuilt_numbers() const override { return 3 * heads_ * width_; }
  int64_t rope_width() const override { return width_; }

 private:
  int64_t heads_, width_;
  FactorRanks ranks_;
  FactorLayout layout_;
  Linear factors_, out_;
};

}  // namespace t6
