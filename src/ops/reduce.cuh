// Sums over a warp and a block, in a fixed order.
#pragma once

#include "tensor/cuda.h"

namespace t6::cuda {

template <class T>
__device__ inline T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Sum over a block of `warps` whole warps, returned to every thread of it; all of them call. The barrier it starts with
// lets it be called anywhere, any number of times.
template <class T>
__device__ inline T block_sum_of(T value, int warps) {
  value = warp_sum(value);
  if (warps == 1) return value;
  __shared__ T partial[kWarp];
  __syncthreads();  // the last call's partial sums have been read
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? partial[lane] : T(0));
}

// The same for a block whose size is known when it is compiled.
template <int kThreads, class T>
__device__ inline T block_sum(T value) {
  static_assert(kThreads % kWarp == 0 && kThreads / kWarp <= kWarp);
  return block_sum_of(value, kThreads / kWarp);
}

}  // namespace t6::cuda
