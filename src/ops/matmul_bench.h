// The processor's measured peak on matrix products: the yardstick that benchmarks print percentages of.
#pragma once

#include "tensor/dtype.h"

namespace t6 {

// GFLOP/s of matmul() on a large square product of `dtype` (f32, bf16; bf16 rounds its output to bf16) on `threads` CPU
// threads: the best of several runs over about `seconds`.
double matmul_peak(DType dtype, int threads, double seconds = 0.5);

}  // namespace t6
