// AdamW over one flat range of parameters, as torch.optim.AdamW computes it.
//
//   g  = gradient_scale * clip * gradient
//   p -= lr wd p
//   m += (1 - beta1) (g - m),  v = beta2 v + (1 - beta2) g^2
//   p -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
//
// Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019. Everything is f32; each element is computed on
// its own, so results do not depend on the thread count, the alignment or on how a range is cut into calls.
#pragma once

#include "ops/work.h"
#include "tensor/device.h"
#include "tensor/dtype.h"

namespace t6 {

struct AdamWArgs {
  float* parameter;       // [count] the f32 master
  const float* gradient;  // [count]
  float* m;               // [count] first moment, zero before step 1
  float* v;               // [count] second moment, zero before step 1
  bfloat16* copy;         // [count] the updated parameter rounded to bf16, or null
  const float* clip;      // one factor on the device (see global_norm.h), or null
  int64_t count;
  int64_t step;  // t: 1 for the first update
  double lr;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.0;
  double gradient_scale = 1.0;
};

// Parameter, m and v are read and written.
inline double bytes_of(const AdamWArgs& a) {
  return bytes_of(7 * a.count, DType::f32) + bytes_of(a.copy != nullptr ? a.count : 0, DType::bf16);
}

// Updates in place. Error(internal) when step < 1. Where gradient_scale * clip is NaN, as norm_and_clip() makes it for
// a gradient that is not finite, nothing is written. Without that a non-finite gradient spreads into parameter and
// moments.
void adamw(Device device, const AdamWArgs& args);

namespace cpu {
void adamw(const AdamWArgs& args);
}  // namespace cpu
namespace cuda {
void adamw(const AdamWArgs& args);
}  // namespace cuda

}  // namespace t6
