// What .cu files share: checked runtime calls, the current stream, kernel launches. Included by .cu files alone.
//
// Kernels are launched by launch() and take dynamic shared memory from dynamic_shared(), never by <<<>>> and extern
// arrays: so the same files also compile as C++ against the emulated device of tests/cuda_emulation.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "base/error.h"

// Throws Error(internal) with the expression, the error's name and its text; also for a failure that was kept before.
#define T6_CUDA(expression)                                                                     \
  do {                                                                                          \
    const cudaError_t t6_status = (expression);                                                 \
    T6_CHECK(t6_status == cudaSuccess, "{}: {} ({})", #expression, cudaGetErrorName(t6_status), \
             cudaGetErrorString(t6_status));                                                    \
    ::t6::cuda::report_kept_failure(#expression);                                               \
  } while (false)

namespace t6::cuda {

constexpr int kWarp = 32;

// Keeps the failed status of a call whose caller cannot throw, for the next T6_CUDA to report; the first of several.
void keep_failure(const char* call, cudaError_t status) noexcept;
void drop_kept_failure() noexcept;
// Throws Error(internal) where one is kept, once; `before` is the call that found it.
void report_kept_failure(const char* before);

// The stream all work of the current device runs on, in the order it is asked for (tensor/gpu.cu).
cudaStream_t current_stream();

inline unsigned blocks_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>((n + per_block - 1) / per_block);
}

// Blocks for a loop in which every thread takes elements a grid apart: enough to fill the device, no more than there is
// work for.
unsigned blocks_for_loop(int64_t n, int64_t per_block);

// Dynamic and static shared memory a block can have: 163 KiB on sm_80, 227 KiB on sm_90.
size_t max_shared_bytes();

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic
};

// Up to here a kernel's dynamic shared memory needs no leave: 48 KiB less what it may have of its own (static).
inline constexpr size_t kSharedBytesWithoutLeave = size_t{32} << 10;

// Runs a kernel on the current stream. Arguments are converted to the kernel's parameter types.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Arguments&&... arguments) {
  if (shape.shared_bytes > kSharedBytesWithoutLeave) {
    T6_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = current_stream();
  T6_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// The block's dynamic shared memory, 16-byte aligned.
template <class T>
__device__ inline T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char t6_dynamic_shared[];
  return reinterpret_cast<T*>(t6_dynamic_shared);
}

// N numbers moved by one instruction where they are aligned to their size (16 bytes at most).
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

// A GPU stops at an address that is not; the emulated one does here.
template <class P>
__device__ inline void require_aligned([[maybe_unused]] const void* at) {
#if defined(T6_CUDA_EMULATION)
  t6_emulation::require_aligned(at, alignof(P));
#endif
}

template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* from) {
  require_aligned<Pack<T, N>>(from);
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T>
__device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
  require_aligned<Pack<T, N>>(to);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Elements of T in 16 bytes.
template <class T>
inline constexpr int kPackOf = 16 / static_cast<int>(sizeof(T));

// Whether every address is a multiple of `bytes`; null is.
template <class... T>
bool aligned_to(size_t bytes, const T*... at) {
  return ((reinterpret_cast<uintptr_t>(at) % bytes == 0) && ...);
}

}  // namespace t6::cuda
