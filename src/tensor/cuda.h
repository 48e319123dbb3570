// What .cu files share: checked runtime calls, the current stream, launch helpers.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/error.h"

// Throws Error(internal) with the expression, the error's name and its text.
#define T6_CUDA(expression)                                                                     \
  do {                                                                                          \
    const cudaError_t t6_status = (expression);                                                 \
    T6_CHECK(t6_status == cudaSuccess, "{}: {} ({})", #expression, cudaGetErrorName(t6_status), \
             cudaGetErrorString(t6_status));                                                    \
  } while (false)

namespace t6::cuda {

// The stream every kernel of this thread runs on.
inline cudaStream_t& current_stream() {
  thread_local cudaStream_t stream = nullptr;
  return stream;
}

inline unsigned blocks_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>((n + per_block - 1) / per_block);
}

}  // namespace t6::cuda
