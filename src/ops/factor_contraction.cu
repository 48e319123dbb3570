#include <algorithm>

#include "ops/factor_contraction.h"
#include "ops/reduce.cuh"
#include "tensor/cuda.h"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;

// Angles of one position, [D/2] each; null where nothing is turned.
struct Angles {
  const float* cos;
  const float* sin;
};

// Number d of a vector of `width`, turned by direction (+1 forward, -1 back); load(i) gives number i.
template <class Load>
__device__ float turned(Load load, int d, int width, Angles angles, float direction) {
  if (angles.cos == nullptr) return load(d);
  const int half = width / 2, i = d % half;
  const float turn = direction * angles.sin[i];
  return d < half ? load(d) * angles.cos[i] + load(d + half) * turn : load(d) * angles.cos[i] - load(d - half) * turn;
}

__device__ Angles angles_of(const void* cos, const void* sin, int64_t position, int head_dim, bool rope) {
  const int64_t at = position * (head_dim / 2);
  return rope ? Angles{static_cast<const float*>(cos) + at, static_cast<const float*>(sin) + at}
              : Angles{nullptr, nullptr};
}

// Brings A [H, R] and B [R, D] (turned, over R) of one part of a row to shared memory.
template <class T>
__device__ void load_factors(const T* row, const FactorPart& part, int heads, int head_dim, Angles angles, float* a,
                             float* b) {
  const int rank = static_cast<int>(part.rank);
  for (int i = threadIdx.x; i < heads * rank; i += kThreads) a[i] = static_cast<float>(row[part.a + i]);
  for (int i = threadIdx.x; i < rank * head_dim; i += kThreads) {
    const T* vector = row + part.b + i / head_dim * head_dim;
    const auto load = [&](int d) { return static_cast<float>(vector[d]); };
    b[i] = turned(load, i % head_dim, head_dim, angles, 1.0f) / static_cast<float>(rank);
  }
}

// Block (x, y): part y of token x.
template <class T>
__global__ void __launch_bounds__(kThreads) factor_contraction_kernel(FactorContractionArgs args) {
  float* shared = dynamic_shared<float>();
  const FactorLayout& layout = args.layout;
  const FactorPart part = blockIdx.y == 0 ? layout.q : blockIdx.y == 1 ? layout.k : layout.v;
  const int heads = static_cast<int>(layout.heads), head_dim = static_cast<int>(layout.head_dim);
  T* out = static_cast<T*>(args.qkv[blockIdx.y]);
  if (out == nullptr) return;
  const int64_t row = blockIdx.x;
  out += row * heads * head_dim;
  const T* f = static_cast<const T*>(args.f) + row * layout.width;
  const Angles angles = angles_of(args.cos, args.sin, args.offset + row % args.window, head_dim, part.rope);

  const int rank = static_cast<int>(part.rank);
  if (rank == 0) {
    for (int i = threadIdx.x; i < heads * head_dim; i += kThreads) {
      const T* vector = f + part.a + i / head_dim * head_dim;
      const auto load = [&](int d) { return static_cast<float>(vector[d]); };
      out[i] = static_cast<T>(turned(load, i % head_dim, head_dim, angles, 1.0f));
    }
    return;
  }
  float* a = shared;
  float* b = a + heads * rank;
  load_factors(f, part, heads, head_dim, angles, a, b);
  __syncthreads();
  for (int i = threadIdx.x; i < heads * head_dim; i += kThreads) {
    const int head = i / head_dim, d = i % head_dim;
    float sum = 0;
    for (int r = 0; r < rank; ++r) sum += a[head * rank + r] * b[r * head_dim + d];
    out[i] = static_cast<T>(sum);
  }
}

// Block (x, y): part y of token x. dA is a dot product a warp, dB a sum over heads a thread.
template <class T>
__global__ void __launch_bounds__(kThreads) factor_contraction_backward_kernel(FactorContractionBackwardArgs args) {
  float* shared = dynamic_shared<float>();
  const FactorLayout& layout = args.layout;
  const FactorPart part = blockIdx.y == 0 ? layout.q : blockIdx.y == 1 ? layout.k : layout.v;
  const int heads = static_cast<int>(layout.heads), head_dim = static_cast<int>(layout.head_dim);
  const int numbers = heads * head_dim, rank = static_cast<int>(part.rank);
  const int64_t row = blockIdx.x;
  const T* dx = static_cast<const T*>(args.dqkv[blockIdx.y]);
  if (dx != nullptr) dx += row * numbers;
  const T* f = static_cast<const T*>(args.f) + row * layout.width;
  T* df = static_cast<T*>(args.df) + row * layout.width;
  const Angles angles = angles_of(args.cos, args.sin, args.offset + row % args.window, head_dim, part.rope);

  if (rank == 0) {
    for (int i = threadIdx.x; i < numbers; i += kThreads) {
      const auto load = [&](int d) {
        return dx != nullptr ? static_cast<float>(dx[i / head_dim * head_dim + d]) : 0.0f;
      };
      df[part.a + i] = static_cast<T>(turned(load, i % head_dim, head_dim, angles, -1.0f));
    }
    return;
  }
  float* a = shared;
  float* b = a + heads * rank;
  float* d = b + rank * head_dim;  // [H, D]
  float* db = d + numbers;         // [R, D], before it is turned back
  load_factors(f, part, heads, head_dim, angles, a, b);
  for (int i = threadIdx.x; i < numbers; i += kThreads) d[i] = dx != nullptr ? static_cast<float>(dx[i]) : 0.0f;
  __syncthreads();

  const int lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x / kWarp; i < heads * rank; i += kThreads / kWarp) {
    const int head = i / rank, r = i % rank;
    float dot = 0;
    for (int j = lane; j < head_dim; j += kWarp) dot += d[head * head_dim + j] * b[r * head_dim + j];
    dot = warp_sum(dot);
    if (lane == 0) df[part.a + i] = static_cast<T>(dot);
  }
  for (int i = threadIdx.x; i < rank * head_dim; i += kThreads) {
    const int r = i / head_dim, j = i % head_dim;
    float sum = 0;
    for (int head = 0; head < heads; ++head) sum += a[head * rank + r] * d[head * head_dim + j];
    db[i] = sum / static_cast<float>(rank);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rank * head_dim; i += kThreads) {
    const float* vector = db + i / head_dim * head_dim;
    df[part.b + i] = static_cast<T>(turned([&](int k) { return vector[k]; }, i % head_dim, head_dim, angles, -1.0f));
  }
}

size_t shared_bytes(const FactorLayout& layout, bool backward) {
  const int64_t rank = std::max({layout.q.rank, layout.k.rank, layout.v.rank});
  const int64_t factors = layout.heads * rank + rank * layout.head_dim;
  const int64_t gradients = backward ? layout.heads * layout.head_dim + rank * layout.head_dim : 0;
  return static_cast<size_t>(factors + gradients) * sizeof(float);
}

template <class Args>
LaunchShape shape_of(const Args& args, bool backward) {
  return {dim3(static_cast<unsigned>(args.rows), 3), kThreads, shared_bytes(args.layout, backward)};
}

}  // namespace

void factor_contraction(const FactorContractionArgs& args) {
  if (args.rows == 0) return;
  T6_CHECK(args.dtype != DType::f64, "factor_contraction: f64 is not built for cuda");
  if (args.dtype == DType::bf16) {
    launch(&factor_contraction_kernel<bfloat16>, shape_of(args, false), args);
  } else {
    launch(&factor_contraction_kernel<float>, shape_of(args, false), args);
  }
}

void factor_contraction_backward(const FactorContractionBackwardArgs& args) {
  if (args.rows == 0) return;
  T6_CHECK(args.dtype != DType::f64, "factor_contraction_backward: f64 is not built for cuda");
  // Padding columns first; the kernel writes every other one.
  T6_CUDA(cudaMemsetAsync(args.df, 0, static_cast<size_t>(args.rows * args.layout.width) * size_of(args.dtype),
                          current_stream()));
  if (args.dtype == DType::bf16) {
    launch(&factor_contraction_backward_kernel<bfloat16>, shape_of(args, true), args);
  } else {
    launch(&factor_contraction_backward_kernel<float>, shape_of(args, true), args);
  }
}

}  // namespace t6::cuda
