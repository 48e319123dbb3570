// Element-wise kernels over rows: one thread a pack of neighbouring elements.
#pragma once

#include "base/error.h"
#include "tensor/cuda.h"
#include "tensor/dtype.h"

namespace t6::cuda {

struct Place {
  int64_t row;
  unsigned column;  // in packs
};

// Where this thread's pack lies when the packs of all rows are dealt to the threads of a one-dimensional grid in order.
// Divides in 64 bits once a block and in 32 bits a thread.
template <int kThreads>
__device__ inline Place place_of_thread(unsigned packs_per_row) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads;
  const unsigned at = static_cast<unsigned>(first % packs_per_row) + threadIdx.x;
  return {first / packs_per_row + at / packs_per_row, at % packs_per_row};
}

// Calls f(T{}) for the dtypes that run on a GPU; f64 is for checks on the CPU.
template <class F>
void dispatch_gpu(const char* op, DType dtype, F&& f) {
  T6_CHECK(dtype != DType::f64, "{}: f64 is not built for cuda", op);
  if (dtype == DType::bf16) {
    f(bfloat16{});
  } else {
    f(float{});
  }
}

// Calls f with the width of packs as a constant: kPack where `packed`, else one element.
template <int kPack, class F>
void dispatch_packed(bool packed, F&& f) {
  if (packed) {
    f(std::integral_constant<int, kPack>{});
  } else {
    f(std::integral_constant<int, 1>{});
  }
}

}  // namespace t6::cuda
