// The global norm of all gradients and the factor that clips it.
//
//   norm = sqrt(sum over tensors and elements of g^2),  clip = min(1, max_norm / norm)
//
// Squares are summed in f64 in blocks of fixed size, and the blocks in a tree fixed by their number: the result does
// not depend on the thread count or the schedule, and a finite gradient never overflows. CPU and GPU differ by f64
// rounding.
#pragma once

#include <limits>
#include <vector>

#include "ops/work.h"
#include "tensor/tensor.h"

namespace t6 {

// Elements whose squares make one partial sum.
inline constexpr int64_t kSquaresBlock = 8192;
constexpr int64_t square_blocks(int64_t count) {
  return (count + kSquaresBlock - 1) / kSquaresBlock;
}

// Sum of squares of f32 tensors on one device, f64 [1] there. Not finite exactly when some element is not.
Tensor sum_of_squares(const std::vector<Tensor>& tensors);

// The two halves of it, for ranks that each know a part of the blocks: sums[i] := sum of squares of block i of `x`, f64
// [square_blocks(x.numel())]; and the sum of partial sums f64 [n], which it destroys, as f64 [1]. Zeros behind the last
// block change no bit.
void sums_of_squares(const Tensor& x, const Tensor& sums);
Tensor sum(const Tensor& partials);

// f32 [2] on the device of `sum`: the norm, and the factor to scale gradients with so that their norm is at most
// max_norm (> 0; infinity: never clip). The factor is NaN when the norm is not finite, and adamw() then changes
// nothing. `previous`, when defined, is the result of the step before: where its factor is NaN the new one is too, so
// that nothing is applied after a bad step until a host that looks at results one step late has seen it. `loss`, f64
// [1] when defined, must be finite as the norm must. A norm or loss above its limit makes the factor NaN, too.
struct NormLimits {
  double norm = std::numeric_limits<double>::infinity();
  double loss = std::numeric_limits<double>::infinity();
};
Tensor norm_and_clip(const Tensor& sum, double max_norm, const Tensor& previous = {}, const Tensor& loss = {},
                     const NormLimits& limits = {});

// Kernel contracts.
struct SquaresArgs {
  const float* x;    // [count]
  double* partials;  // [ceil(count / kSquaresBlock)]
  int64_t count;
};
struct SumArgs {
  double* partials;  // [count], destroyed
  double* sum;       // [1]: their sum
  int64_t count;
};
struct NormAndClipArgs {
  const double* sum;      // [1]
  const float* previous;  // [2] norm_and_clip of the step before, or null
  const double* loss;     // [1], or null
  float* norm_and_clip;   // [2]
  double max_norm;
  NormLimits limits;
};

inline double bytes_of(const SquaresArgs& a) {
  return bytes_of(a.count, DType::f32) + bytes_of((a.count + kSquaresBlock - 1) / kSquaresBlock, DType::f64);
}
inline double bytes_of(const SumArgs& a) {
  return bytes_of(a.count + 1, DType::f64);
}

namespace cpu {
void squares(const SquaresArgs& args);
void sum(const SumArgs& args);
void norm_and_clip(const NormAndClipArgs& args);
}  // namespace cpu
namespace cuda {
void squares(const SquaresArgs& args);
void sum(const SumArgs& args);
void norm_and_clip(const NormAndClipArgs& args);
}  // namespace cuda

}  // namespace t6
