// The global norm of all gradients and the factor that clips it.
//
//   norm = sqrt(sum over tensors and elements of g^2),  clip = min(1, max_norm / norm)
//
// Squares are summed in f64 in blocks of fixed size, and the blocks in a tree fixed by their number: the result does not
// depend on the thread count or the schedule, and a finite gradient never overflows. CPU and GPU differ by f64 rounding.
#pragma once

#include <vector>

#include "ops/work.h"
#include "tensor/tensor.h"

namespace t6 {

// Sum of squares of f32 tensors on one device, f64 [1] there. Not finite exactly when some element is not. Sums of
// several ranks may be added before norm_and_clip().
Tensor sum_of_squares(const std::vector<Tensor>& tensors);

// f32 [2] on the device of `sum`: the norm, and the factor to scale gradients with so that their norm is at most
// max_norm (> 0; infinity: never clip). The factor is NaN when the norm is not finite, and adamw() then changes nothing.
// `previous`, when defined, is the result of the step before: where its factor is NaN the new one is too, so that
// nothing is applied after a bad step until a host that looks at results one step late has seen it. `loss`, f64 [1]
// when defined, must be finite as the norm must.
Tensor norm_and_clip(const Tensor& sum, double max_norm, const Tensor& previous = {}, const Tensor& loss = {});

// Kernel contracts.
inline constexpr int64_t kSquaresBlock = 8192;  // elements a partial sum

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
