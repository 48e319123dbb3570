// Linear layer without bias: y = x W^T.
#pragma once

#include <optional>

#include "autograd/variable.h"

namespace t6 {

// x [rows.., in], weight [out, in] of the same dtype (f32, bf16, f64) -> y [rows.., out] of that dtype, or of y_dtype
// (f32 from bf16). Products accumulate in f32 (f64).
//
//   dx = dy W,  dW += dy^T x
//
// dW is added straight into the weight's f32 (f64) gradient buffer. Saves x and weight.
Variable linear(const Variable& x, const Variable& weight, std::optional<DType> y_dtype = {});

}  // namespace t6
