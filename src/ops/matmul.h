// Matrix product of row-major matrices with leading dimensions: the kernel every linear layer and attention rests on.
//
//   C = op(A) op(B)   or   C += op(A) op(B)       op(X) = X or X^T
//
// Kernel level: nothing here is on the tape. Products accumulate in f32 (f64 for f64) whatever the dtypes; f32 inputs
// are never rounded to tf32. On the CPU by oneDNN, on a GPU by cuBLASLt.
#pragma once

#include <string>
#include <vector>

#include "ops/work.h"
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

inline double bytes_of(const MatmulArgs& a) {
  return bytes_of(a.m * a.k + a.k * a.n, a.in_dtype) + bytes_of((a.accumulate ? 2 : 1) * a.m * a.n, a.out_dtype);
}

// Runs the product on `device`. Error(internal) on dtypes that do not go together, negative sizes or leading dimensions
// shorter than a row, and on f64 on a GPU.
void matmul(Device device, const MatmulArgs& args);

// What products on a GPU work in: allocated once, shared by all of them. NVIDIA recommends this for sm_90.
inline constexpr int64_t kMatmulWorkspaceBytes = int64_t{32} << 20;

// Makes ready what products on `device` need once: on a GPU the library (Error(usage) when it is not installed) and the
// workspace. The first product does it too, but not while a graph is captured: call it, or multiply, before.
void prepare_matmul(Device device);

// How the algorithm of a GPU product is chosen among the library's suggestions, all of which give the same bits at
// every run of one and the same algorithm. A product (sizes, leading dimensions, transposes, dtypes, accumulation,
// alignment) keeps its algorithm from its first call on.
enum class MatmulChoice : uint8_t {
  timed,  // the fastest, measured at the first call; the clock decides, so two processes may differ in last bits.
          // Small products, and those first seen while a graph is captured, take `first`.
  first,  // the library's first: the same in every process, on one kind of GPU and version of the library
};
// For the whole process; `timed` until set. Forgets the choices made under the other one.
void set_matmul_choice(MatmulChoice choice);

struct MatmulAlgorithm {
  MatmulArgs product;  // its pointers are null
  // As cuBLASLt numbers them.
  int id;
  int tile;
  int stages;
  int split_k;              // parts of k that are summed on their own, then together in f32
  int candidates;           // suggestions it was chosen from
  double microseconds = 0;  // of one product; 0: not measured
};
// The choices made so far on this process' GPU, in the order of first calls.
std::vector<MatmulAlgorithm> matmul_algorithms();
// "bf16 -> f32 [768, 768] += [768, 8192]^T [8192, 768], ld 768 768 768: algorithm 66, tile 20, ..."
std::string to_string(const MatmulAlgorithm& algorithm);

// Version of the library behind the GPU products, loading it: "13.1.0". Empty where there is no GPU.
std::string gpu_matmul_library_version();

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
// Unchecked but for f64. On the current stream, called by one thread at a time.
void matmul(const MatmulArgs& args);
}  // namespace cuda

}  // namespace t6
