// Attention of new tokens against cached rows on a GPU: factor_decode() and the decoding half of attention_decode(), of
// which the second is the first with head factors that are ones.
//
//   score[h, m] = (scale / R_K) sum_s a_k[m, h, s] (q[h] . b_k[m, s])
//   o[h]        = (1 / R_V) sum_m softmax(score[h])[m] sum_s a_v[m, h, s] b_v[m, s]
//
// Softmax and sums are f32, in bf16 mode the factors of products bf16. The same inputs give the same bits.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace t6::cuda {

struct DecodeArgs {
  const void* q;           // [batch, queries, groups, heads, width]
  const void* a_k;         // [batch, capacity, heads, rank_k], of one group; null: ones
  const void* b_k;         // [batch, capacity, groups, rank_k, width]
  const void* a_v;         // [batch, capacity, heads, rank_v], of one group; null: ones
  const void* b_v;         // [batch, capacity, groups, rank_v, v_width]
  const int32_t* lengths;  // [batch] rows in use, those of the new tokens included; null: `length` of each
  void* o;                 // [batch, queries, groups, heads, v_width]
  int64_t length;
  int64_t batch;
  int64_t queries;  // query t sees rows 0..length - queries + t; others are not read
  int64_t capacity;
  int64_t groups;  // of heads, each with cached rows of its own
  int64_t heads;   // of a group
  int64_t width;
  int64_t v_width;
  int64_t rank_k;
  int64_t rank_v;
  double scale;
  DType dtype;  // f32 or bf16
};

void decode(const DecodeArgs& args);

// The two kernels that decode() chooses from.
namespace decode_on_cuda_cores {
// Any widths, heads and ranks that fit a multiprocessor.
void run(const DecodeArgs& args);
}  // namespace decode_on_cuda_cores

namespace decode_on_tensor_cores {
// bf16 with cached rows of whole 16 bytes, up to 320 numbers, and ranks that leave room for three tiles of rows.
bool takes(const DecodeArgs& args);
void run(const DecodeArgs& args);
}  // namespace decode_on_tensor_cores

}  // namespace t6::cuda
