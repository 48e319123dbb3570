// Attention of new tokens against factor caches, without keys and values: the scores of a cached row are dot products
// with its few token factors, weighted by head.
//
//   score[h, m] = (scale / R_K) sum_s a_k[m, h, s] (q[h] . b_k[m, s])
//   o[h]        = (1 / R_V) sum_m softmax(score[h])[m] sum_s a_v[m, h, s] b_v[m, s]
//
// FlashTPA decoding of "Tensor Product Attention Is All You Need", appendix. Sums and the softmax are in the accumulate
// type, in bf16 mode the factors of products bf16; results do not depend on the thread count nor on other batch rows;
// on a GPU they depend on the shapes, too.
#pragma once

#include "ops/factor_contraction.h"

namespace t6 {

// q [B, Tnew, H, D] with RoPE (contract_query), cache with M rows a batch row (a_k [B, M, H, R_K], b_k [B, M, R_K, D],
// a_v [B, M, H, R_V], b_v [B, M, R_V, Dv]), lengths i32 [B]: rows of the cache in use, those of the new tokens included
// -> o [B, Tnew, H, Dv]. Query t sees rows 0..length - Tnew + t; others are not read. Off the tape. Lengths are in
// [Tnew, M]: those on the CPU are checked, Error(internal), and copied to the device of q; those on a GPU are read
// there alone, so that nothing waits, and one out of range is taken for the nearest number of rows there can be.
Tensor factor_decode(const Tensor& q, const FactorRows& cache, const Tensor& lengths, double scale);

// Kernel contract.
struct FactorDecodeArgs {
  const void* q;           // [batch, queries, heads, width]
  const void* a_k;         // [batch, capacity, heads, rank_k]
  const void* b_k;         // [batch, capacity, rank_k, width]
  const void* a_v;         // [batch, capacity, heads, rank_v]
  const void* b_v;         // [batch, capacity, rank_v, v_width]
  const int32_t* lengths;  // [batch]
  void* o;                 // [batch, queries, heads, v_width]
  int64_t batch;
  int64_t queries;
  int64_t capacity;
  int64_t heads;
  int64_t width;
  int64_t v_width;
  int64_t rank_k;
  int64_t rank_v;
  double scale;
  DType dtype;
};

// Of a full cache: what lengths hold lies on the device.
inline double bytes_of(const FactorDecodeArgs& a) {
  const int64_t row = a.rank_k * (a.heads + a.width) + a.rank_v * (a.heads + a.v_width);
  return bytes_of(a.batch * (a.capacity * row + a.queries * a.heads * (a.width + a.v_width)), a.dtype);
}

namespace cpu {
void factor_decode(const FactorDecodeArgs& args);
}  // namespace cpu
namespace cuda {
void factor_decode(const FactorDecodeArgs& args);
}  // namespace cuda

}  // namespace t6
