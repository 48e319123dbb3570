// Causal attention with grouped heads.
//
//   o[t, h] = sum_j P[t, j] v[j, g],   P[t, :] = softmax over j <= offset + t of  scale q[t, h] . k[j, g],
//   g = h / (H/G)
//
// Scores, softmax and sums are f32 (f64 for f64) whatever the dtype of the inputs; in bf16 mode the factors of products
// are bf16. No [T, T] matrix is kept: the backward recomputes P from the saved log-sum-exp, after Dao et al.,
// "FlashAttention", 2022. Results do not depend on the thread count.
#pragma once

#include "autograd/variable.h"
#include "ops/work.h"

namespace t6 {

// q [B, T, H, Dqk], k [B, T, G, Dqk], v [B, T, G, Dv] -> o [B, T, H, Dv]; G divides H. dtypes f32, bf16, f64, all the
// same. Saves q, k, v, o and log-sum-exp [B, H, T].
Variable attention(const Variable& q, const Variable& k, const Variable& v, double scale);

// The halves of attention(), off the tape, for operations that keep something else than q, k and v.
struct AttentionValues {
  Tensor o;
  Tensor lse;  // undefined unless asked for
};
AttentionValues attention_values(const Tensor& q, const Tensor& k, const Tensor& v, double scale, bool with_lse);
struct AttentionGradients {
  Tensor dq, dk, dv;
};
// `forward` with lse, of the same q, k, v and scale; d_o is shaped like o.
AttentionGradients attention_gradients(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const AttentionValues& forward, const Tensor& d_o, double scale);

// New tokens against a cache: q [B, Tnew, H, Dqk], k [B, M, G, Dqk], v [B, M, G, Dv] -> o [B, Tnew, H, Dv]. Query t
// sees keys 0..offset + t; the rows of the new tokens are in the cache already, so M >= offset + Tnew; rows behind are
// not read. Off the tape.
Tensor attention_decode(const Tensor& q, const Tensor& k, const Tensor& v, int64_t offset, double scale);

// Kernel contracts. Tensors are contiguous.
struct AttentionArgs {
  const void* q;  // [batch, queries, heads, qk_width]
  const void* k;  // [batch, keys, kv_heads, qk_width]
  const void* v;  // [batch, keys, kv_heads, v_width]
  void* o;        // [batch, queries, heads, v_width]
  void* lse;      // [batch, heads, queries] of the accumulate type: log sum_j exp(scale q . k); or null
  int64_t batch;
  int64_t queries;
  int64_t keys;  // at least offset + queries
  int64_t heads;
  int64_t kv_heads;
  int64_t qk_width;
  int64_t v_width;
  int64_t offset;
  double scale;
  DType dtype;
};

//   dv[j] = sum_t P[t, j] do[t],   dS[t, j] = P[t, j] (do[t] . v[j] - do[t] . o[t]) scale
//   dq[t] = sum_j dS[t, j] k[j],   dk[j] = sum_t dS[t, j] q[t];   dk and dv summed over the heads of a group
struct AttentionBackwardArgs {
  AttentionArgs forward;  // o and lse as the forward wrote them
  const void* d_o;        // [batch, queries, heads, v_width]
  void* dq;               // [batch, queries, heads, qk_width]
  void* dk;               // [batch, keys, kv_heads, qk_width]
  void* dv;               // [batch, keys, kv_heads, v_width]
};

// Each pair of positions that attends counted once; the backward makes the scores again.
inline double attended_pairs(const AttentionArgs& a) {
  const double queries = static_cast<double>(a.queries);
  return static_cast<double>(a.batch * a.heads) * queries * (static_cast<double>(a.offset) + (queries + 1) / 2);
}
inline double flops_of(const AttentionArgs& a) {
  return 2.0 * attended_pairs(a) * static_cast<double>(a.qk_width + a.v_width);
}
inline double flops_of(const AttentionBackwardArgs& a) {
  return 2.0 * attended_pairs(a.forward) * static_cast<double>(3 * a.forward.qk_width + 2 * a.forward.v_width);
}

inline double bytes_of(const AttentionArgs& a) {
  const int64_t queries = a.batch * a.queries * a.heads, keys = a.batch * (a.offset + a.queries) * a.kv_heads;
  return bytes_of((queries + keys) * (a.qk_width + a.v_width), a.dtype) +
         bytes_of(a.lse != nullptr ? queries : 0, accumulate_dtype(a.dtype));
}
// All that the forward moves, and the gradients of each.
inline double bytes_of(const AttentionBackwardArgs& a) {
  const AttentionArgs& f = a.forward;
  const int64_t queries = f.batch * f.queries * f.heads, keys = f.batch * f.keys * f.kv_heads;
  return bytes_of(2 * (queries + keys) * (f.qk_width + f.v_width), f.dtype) +
         bytes_of(queries, accumulate_dtype(f.dtype));
}

namespace cpu {
void attention(const AttentionArgs& args);
void attention_backward(const AttentionBackwardArgs& args);
}  // namespace cpu
namespace cuda {
void attention(const AttentionArgs& args);
void attention_backward(const AttentionBackwardArgs& args);
}  // namespace cuda

}  // namespace t6
