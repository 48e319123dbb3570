// RMS normalisation, plain or fused with the residual add that precedes it.
//
//   r = 1 / sqrt(mean(x^2) + eps),  y = x r (w)
//
// Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
// Statistics are f32 (f64 for f64) whatever the dtype of x and y.
#pragma once

#include "autograd/variable.h"
#include "ops/work.h"

namespace t6 {

// x [rows.., width] -> [rows.., width] of y_dtype. `weight` [width] is optional (an undefined Variable: none).
// dtypes x/y: f32/f32, f32/bf16, bf16/bf16, f64/f64; weight has the dtype of y. Saves x, r and weight.
Variable rms_norm(const Variable& x, double eps, DType y_dtype, const Variable& weight = {});

struct AddRmsNorm {
  Variable sum;   // x + a, dtype of x
  Variable norm;  // rms_norm(sum), dtype of a
};

// The residual stream x [rows.., width] (f32, f64) takes in a branch's output a of the same shape (f32 or bf16, f64).
// Saves the sum and r.
AddRmsNorm add_rms_norm(const Variable& x, const Variable& a, double eps);

// Kernel contracts. Rows are contiguous; statistics have the accumulate type of x.
struct RmsNormForwardArgs {
  const void* x;       // [rows, width] of x_dtype
  const void* addend;  // [rows, width] of y_dtype, or null
  const void* weight;  // [width] of y_dtype, or null
  void* sum;           // [rows, width] of x_dtype: x + addend; null without addend
  void* y;             // [rows, width] of y_dtype
  void* rstd;          // [rows]
  int64_t rows;
  int64_t width;
  double eps;
  DType x_dtype;
  DType y_dtype;
};

//   dx = dsum + r (g - x r^2 mean(g x)),  g = dy w;  dw += sum over rows of dy x r
struct RmsNormBackwardArgs {
  const void* x;       // [rows, width] of x_dtype: what was normalised
  const void* rstd;    // [rows]
  const void* weight;  // [width] of y_dtype, or null
  const void* dy;      // [rows, width] of y_dtype, or null (counts as zero)
  const void* dsum;    // [rows, width] of x_dtype, or null
  void* dx;            // [rows, width] of x_dtype
  void* daddend;       // [rows, width] of y_dtype: dx once more, rounded; or null
  void* dweight;       // [width] of the accumulate type, added to; or null
  int64_t rows;
  int64_t width;
  DType x_dtype;
  DType y_dtype;
};

inline double bytes_of(const RmsNormForwardArgs& a) {
  const int64_t n = a.rows * a.width, added = a.addend != nullptr ? n : 0;
  return bytes_of(n + added, a.x_dtype) + bytes_of(n + added + (a.weight != nullptr ? a.width : 0), a.y_dtype) +
         bytes_of(a.rows, accumulate_dtype(a.x_dtype));
}
inline double bytes_of(const RmsNormBackwardArgs& a) {
  const int64_t n = a.rows * a.width;
  const auto if_given = [](const void* tensor, int64_t count) { return tensor != nullptr ? count : 0; };
  return bytes_of(2 * n + if_given(a.dsum, n), a.x_dtype) +
         bytes_of(if_given(a.dy, n) + if_given(a.daddend, n) + if_given(a.weight, a.width), a.y_dtype) +
         bytes_of(a.rows + if_given(a.dweight, 2 * a.width), accumulate_dtype(a.x_dtype));
}

namespace cpu {
void rms_norm_forward(const RmsNormForwardArgs& args);
void rms_norm_backward(const RmsNormBackwardArgs& args);
}  // namespace cpu
namespace cuda {
void rms_norm_forward(const RmsNormForwardArgs& args);
void rms_norm_backward(const RmsNormBackwardArgs& args);
}  // namespace cuda

}  // namespace t6
