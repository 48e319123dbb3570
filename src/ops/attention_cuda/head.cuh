// Where the rows of one head of q, k, v and o lie, for attention's kernels.
#pragma once

#include "ops/attention.h"
#include "tensor/cuda.h"

namespace t6::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// Rows of one head of x [batch, rows, heads, width].
template <class T>
struct Head {
  T* data;         // row 0
  int64_t stride;  // from row to row
  int width;

  template <class X>  // const void or void
  __device__ Head(X* x, int64_t rows, int64_t heads, int64_t width_, int64_t b, int64_t h)
      : data(static_cast<T*>(x) + (b * rows * heads + h) * width_),
        stride(heads * width_),
        width(static_cast<int>(width_)) {}

  __device__ T* row(int64_t i) const { return data + i * stride; }
  __device__ bool aligned(int pack) const {
    return width % pack == 0 && reinterpret_cast<uintptr_t>(data) % (pack * sizeof(T)) == 0;
  }
};

}  // namespace t6::cuda
