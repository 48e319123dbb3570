// Rotary position embedding, and the splits of packed products into heads that apply it. Their kernels, CPU and CUDA,
// are head_copy.cpp and head_copy.cu: every one of them is a copy of heads that turns them on the way.
//
//   y1 = x1 cos + x2 sin,  y2 = -x1 sin + x2 cos   for the pairs (i, i + width/2) at angle position theta^(-2i/width)
//
// Su et al., "RoFormer", 2021, turned by minus the angle as in the code of "Tensor Product Attention Is All You Need".
// The first token of a window has position `offset`. Rotation is linear, so nothing but sizes and tables is saved; the
// gradient is the inverse rotation. Sums are in the accumulate type and rounded once.
#pragma once

#include <vector>

#include "autograd/variable.h"

namespace t6 {

struct RopeTable {
  Tensor cos, sin;  // [positions, width/2], f32 (for f32 and bf16 activations) or f64

  int64_t positions() const { return cos.dim(0); }
  int64_t width() const { return 2 * cos.dim(1); }
  RopeTable to(Device device) const { return {cos.to(device), sin.to(device)}; }
};

// Angles in f64, values rounded to `dtype` (f32 or f64). With round_to_bf16 as the authors' code computes them: angles
// in f32, cos and sin rounded to bf16.
RopeTable make_rope_table(int64_t positions, int64_t width, double theta, bool round_to_bf16, DType dtype);

// x [B, T, n, D] -> the same, every vector rotated.
Variable rope(const Variable& x, const RopeTable& table, int64_t offset = 0);

struct Qkv {
  Variable q;  // [B, T, H, D], mla [B, T, H, nope + rope]
  Variable k;  // [B, T, G, D], mla [B, T, H, nope + rope]
  Variable v;  // [B, T, G, D], mla [B, T, H, v_width]
};

// packed [B, T, W], columns (q: H D | k: G D | v: G D | padding) with D = table.width(), split with RoPE on q and k.
// Padding gets a zero gradient.
Qkv qkv_rope(const Variable& packed, int64_t heads, int64_t kv_heads, const RopeTable& table, int64_t offset = 0);

// x [rows.., W] -> one [rows.., width] for each of widths (at most 7), in order; columns left over get a zero gradient.
std::vector<Variable> split_columns(const Variable& x, const std::vector<int64_t>& widths);

struct MlaWidths {
  int64_t heads;
  int64_t nope;  // width without RoPE of q and k; that with RoPE is the table's
  int64_t v;
};

// q_b [B, T, Wq], a head (nope | rope); kv_b [B, T, Wkv], a head (k nope | v); k_rope [B, T, rope], one for all heads.
// q_b and kv_b may have padding columns at the end.
Qkv mla_qkv(const Variable& q_b, const Variable& kv_b, const Variable& k_rope, const MlaWidths& widths,
            const RopeTable& table, int64_t offset = 0);

// The q of mla_qkv alone.
Variable mla_q(const Variable& q_b, const MlaWidths& widths, const RopeTable& table, int64_t offset = 0);

struct MlaKv {
  Variable k;  // [B, T, H, nope + rope]
  Variable v;  // [B, T, H, v_width]
};

// The k and v of mla_qkv alone. With table null, k_rope holds rotated rows (of a cache) already.
MlaKv mla_kv(const Variable& kv_b, const Variable& k_rope, const MlaWidths& widths, const RopeTable* table,
             int64_t offset = 0);

// Error(internal) unless `table` fits the activations x [B, T, ..] in dtype and device, has this width (0: any) and
// covers [offset, offset + T).
void check_rope_table(const char* op, const RopeTable& table, const Tensor& x, int64_t width, int64_t offset);

}  // namespace t6
