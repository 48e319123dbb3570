// The measured peak of a device on matrix products: the yardstick that benchmarks print percentages of.
#pragma once

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace t6 {

// GFLOP/s of matmul() on a product of two [size, size] matrices of `dtype` (f32, bf16; bf16 rounds its output to bf16)
// on `threads` CPU threads: the best of several runs over about `seconds`.
double matmul_peak(DType dtype, int threads, double seconds = 0.5, int64_t size = 2048);

// The same on a GPU, by its own clock, over matrices of random numbers (a GPU clocks higher on constant ones). At size
// 8192 a bf16 matrix is 128 MiB, more than any second-level cache; size 0 is that, or a smaller power of two where the
// device is so slow that one product would take longer than `seconds`.
double gpu_matmul_peak(Device device, DType dtype, double seconds = 0.5, int64_t size = 0);

}  // namespace t6
