// Matrix product of row-major matrices with leading dimensions: the kernel every linear layer and attention rests on.
//
//   C = op(A) op(B)   or   C += op(A) op(B)       op(X) = X or X^T
//
// Kernel level: nothing here is on the tape. Products accumulate in f32 (f64 for f64) whatever the dtypes.
#pragma once

#include <string>

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace t6 {

struct MatmulArgs {
  const void* a;  // op(A) [m, k]: stored [m, k], or [k, m] with transpose_a; rows lda elements apart
  const void* b;  // op(B) [k, n]: stored [k, n], or [n, k] with transpose_b; rows ldb elements apart
  void* c;        // [m, n], rows ldc elements apart; overlaps neither a nor b
  int64_t m;
  int64_t n;
  int64_t k;  // zero: the product is zero
  int64_t lda;
  int64_t ldb;
  int64_t ldc;
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;  // add to C, which is f32 or f64 then
  DType in_dtype = DType::f32;
  DType out_dtype = DType::f32;  // f32 -> f32, bf16 -> bf16, bf16 -> f32, f64 -> f64
};

inline double flops_of(const MatmulArgs& args) {
  return 2.0 * static_cast<double>(args.m) * static_cast<double>(args.n) * static_cast<double>(args.k);
}

// Runs the product on `device`. Error(internal) on dtypes that do not go together, negative sizes or leading dimensions
// shorter than a row.
void matmul(Device device, const MatmulArgs& args);

// Version of the library behind the CPU products: "2.6.3".
std::string matmul_library_version();

namespace cpu {
// Unchecked. On all threads from outside OpenMP regions, on the calling thread inside one. Results depend on the
// shapes, the thread count and the processor only.
void matmul(const MatmulArgs& args);
// The same for bf16 inputs, by way of f32 copies: what matmul() does on a processor without bf16 dot products.
void matmul_bf16_through_f32(const MatmulArgs& args);
}  // namespace cpu
namespace cuda {
void matmul(const MatmulArgs& args);
}  // namespace cuda

}  // namespace t6
