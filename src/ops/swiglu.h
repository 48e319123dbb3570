// SwiGLU on the packed output of the gate and up projections.
//
//   h = silu(g) u,  silu(g) = g s,  s = 1 / (1 + e^-g)      Shazeer, "GLU Variants Improve Transformer", 2020
//
// The gate g is the first half of each packed row, u the second. Computed in f32 (f64 for f64).
#pragma once

#include "autograd/variable.h"
#include "ops/work.h"

namespace t6 {

// packed [rows.., 2 F] -> [rows.., F] of the same dtype (f32, bf16, f64). Saves packed; backward computes s again.
Variable swiglu(const Variable& packed);

// Kernel contracts. Rows are contiguous.
struct SwigluForwardArgs {
  const void* packed;  // [rows, 2 width]
  void* h;             // [rows, width]
  int64_t rows;
  int64_t width;
  DType dtype;
};

//   dg = dh u s (1 + g (1 - s)),  du = dh g s
struct SwigluBackwardArgs {
  const void* packed;  // [rows, 2 width]
  const void* dh;      // [rows, width]
  void* dpacked;       // [rows, 2 width]
  int64_t rows;
  int64_t width;
  DType dtype;
};

inline double bytes_of(const SwigluForwardArgs& a) {
  return bytes_of(3 * a.rows * a.width, a.dtype);
}
inline double bytes_of(const SwigluBackwardArgs& a) {
  return bytes_of(5 * a.rows * a.width, a.dtype);
}

namespace cpu {
void swiglu_forward(const SwigluForwardArgs& args);
void swiglu_backward(const SwigluBackwardArgs& args);
}  // namespace cpu
namespace cuda {
void swiglu_forward(const SwigluForwardArgs& args);
void swiglu_backward(const SwigluBackwardArgs& args);
}  // namespace cuda

}  // namespace t6
