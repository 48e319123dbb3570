// Copies of 16 bytes from global to shared memory beside other work, without passing through registers (cp.async).
//
// What a thread asked for is there for itself once wait_for_copies() has returned, and for the others after a barrier.
// On the emulated device it is NaN until then.
#pragma once

#include <cstdint>

#include "tensor/cuda.h"

namespace t6::cuda {

// Both aligned. `zero` sets zeros; `from` must be readable all the same.
__device__ inline void copy_16(void* to, const void* from, bool zero = false) {
#if defined(T6_CUDA_EMULATION)
  t6_emulation::begin_copy(to, from, zero);
#else
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
      "l"(from), "r"(zero ? 0 : 16)
      : "memory");
#endif
}

// Makes one group of what this thread asked for since the last one; it may be empty.
__device__ inline void end_copy_group() {
#if defined(T6_CUDA_EMULATION)
  t6_emulation::end_copy_group();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All groups but the last kLaterGroups are there. With 0: all that was asked for, whether a group or not.
template <int kLaterGroups = 0>
__device__ inline void wait_for_copies() {
#if defined(T6_CUDA_EMULATION)
  t6_emulation::finish_copies(kLaterGroups);
#else
  if constexpr (kLaterGroups == 0) {
    asm volatile("cp.async.wait_all;" ::: "memory");
  } else {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLaterGroups) : "memory");
  }
#endif
}

}  // namespace t6::cuda
