// Contraction of tensor-product factors: q, k and v of every head from one packed product of the token.
//
//   q[h] = (1/R) sum_r A[h, r] RoPE(B[r]),   k likewise,   v likewise without RoPE
//
// "Tensor Product Attention Is All You Need", arXiv 2501.06425, section 3. B is turned once a token; sums are in the
// accumulate type (f32, f64 for f64) and rounded once.
#pragma once

#include <array>
#include <utility>

#include "autograd/variable.h"
#include "ops/rope.h"
#include "ops/work.h"

namespace t6 {

// Where the factors of q, k or v stand in a packed row, and what is done with them.
struct FactorPart {
  int64_t rank = 0;   // R; 0: dense, the H vectors stand in the row as they are
  int64_t a = 0;      // first column of A: head h, rank r at a + h R + r; dense: of vector h at a + h D
  int64_t b = 0;      // first column of B: rank r at b + r D; not read when dense
  bool rope = false;  // on every row of B (dense: on every vector)

  int64_t columns(int64_t heads, int64_t head_dim) const {
    return rank > 0 ? rank * (heads + head_dim) : heads * head_dim;
  }
};

struct FactorLayout {
  int64_t heads = 0;
  int64_t head_dim = 0;
  FactorPart q, k, v;
  int64_t width = 0;  // columns of a packed row; those of no segment are padding
};

// The layout A_Q | A_K | A_V | B_Q | B_K | B_V with RoPE on q and k, every segment padded to a multiple of
// segment_multiple columns and the row to one of width_multiple. rank_q = 0: A_Q is a dense query and B_Q is missing.
FactorLayout pack_factors(int64_t heads, int64_t head_dim, int64_t rank_q, int64_t rank_k, int64_t rank_v,
                          int64_t segment_multiple = 1, int64_t width_multiple = 1);

// f [B, T, layout.width] -> q, k, v [B, T, H, D]. Positions start at `offset`. Saves f. The gradient of f is written
// whole, zero in padding columns. Error(internal) when segments overlap or leave the row.
Qkv factor_contraction(const Variable& f, const FactorLayout& layout, const RopeTable& table, int64_t offset = 0);

// The gradient of f from those of q, k and v (undefined: counts as zero). Off the tape.
Tensor factor_gradient(const Tensor& f, const std::array<Tensor, 3>& dqkv, const FactorLayout& layout,
                       const RopeTable& table, int64_t offset = 0);

// What a decode cache takes of new tokens: (R_K + R_V)(H + D) numbers a token. Off the tape.
struct FactorRows {
  Tensor a_k;  // [B, T, H, R_K]
  Tensor b_k;  // [B, T, R_K, D], turned
  Tensor a_v;  // [B, T, H, R_V]
  Tensor b_v;  // [B, T, R_V, D]
};

// Rows of f [B, T, layout.width] for the cache; k and v must have ranks.
FactorRows rotate_factors(const Tensor& f, const FactorLayout& layout, const RopeTable& table, int64_t offset = 0);

// The q [B, T, H, D] of factor_contraction alone. Off the tape.
Tensor contract_query(const Tensor& f, const FactorLayout& layout, const RopeTable& table, int64_t offset = 0);

// Kernel contracts. Order of parts: q, k, v.
struct FactorContractionArgs {
  const void* f;             // [rows, layout.width]
  std::array<void*, 3> qkv;  // [rows, H, D] each, or null: not wanted
  const void* cos;           // [positions, D/2] of the accumulate type
  const void* sin;
  int64_t rows;    // tokens of the whole batch
  int64_t window;  // row i has position offset + i % window
  int64_t offset;
  FactorLayout layout;
  DType dtype;
};

//   dA[h, r] = (1/R) dq[h] . RoPE(B[r]),   dB[r] = RoPE^-1( (1/R) sum_h A[h, r] dq[h] )
struct FactorContractionBackwardArgs {
  const void* f;                    // [rows, layout.width]
  std::array<const void*, 3> dqkv;  // [rows, H, D] each, or null (counts as zero)
  void* df;                         // [rows, layout.width], written whole
  const void* cos;
  const void* sin;
  int64_t rows;
  int64_t window;
  int64_t offset;
  FactorLayout layout;
  DType dtype;
};

inline double bytes_of(const FactorContractionArgs& a) {
  const FactorLayout& l = a.layout;
  int64_t numbers = 0;  // of one row
  for (const auto& [part, made] : {std::pair{&l.q, a.qkv[0]}, {&l.k, a.qkv[1]}, {&l.v, a.qkv[2]}}) {
    if (made != nullptr) numbers += part->columns(l.heads, l.head_dim) + l.heads * l.head_dim;
  }
  return bytes_of(a.rows * numbers, a.dtype);
}
// The gradient of a dense part does not read f.
inline double bytes_of(const FactorContractionBackwardArgs& a) {
  const FactorLayout& l = a.layout;
  int64_t numbers = l.width;
  for (const auto& [part, given] : {std::pair{&l.q, a.dqkv[0]}, {&l.k, a.dqkv[1]}, {&l.v, a.dqkv[2]}}) {
    if (given == nullptr) continue;
    numbers += l.heads * l.head_dim + (part->rank > 0 ? part->columns(l.heads, l.head_dim) : 0);
  }
  return bytes_of(a.rows * numbers, a.dtype);
}

namespace cpu {
void factor_contraction(const FactorContractionArgs& args);
void factor_contraction_backward(const FactorContractionBackwardArgs& args);
}  // namespace cpu
namespace cuda {
void factor_contraction(const FactorContractionArgs& args);
void factor_contraction_backward(const FactorContractionBackwardArgs& args);
}  // namespace cuda

}  // namespace t6
