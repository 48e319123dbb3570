// Sums over a warp and a block, in a fixed order.
#pragma once

#include "tensor/cuda.h"

namespace t6::cuda {

template <class T>
__device__ inline T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Sum over a block of kThreads threads, returned to every one of them. May be called again after a __syncthreads().
template <int kThreads, class T>
__device__ inline T block_sum(T value) {
  static_assert(kThreads % kWarp == 0 && kThreads / kWarp <= kWarp);
  __shared__ T partial[kThreads / kWarp];
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = threadIdx.x % kWarp < kThreads / kWarp ? partial[threadIdx.x % kWarp] : T(0);
  return warp_sum(value);
}

}  // namespace t6::cuda
