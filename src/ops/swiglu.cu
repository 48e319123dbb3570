#include <cmath>

#include "ops/packs.cuh"
#include "ops/swiglu.h"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;

// The fast forms are off by some 2^-21, far below a bf16 result's rounding.
template <class T>
__device__ inline float sigmoid(float x) {
  if constexpr (std::is_same_v<T, bfloat16>) return __fdividef(1.0f, 1.0f + __expf(-x));
  return 1.0f / (1.0f + expf(-x));
}

// One thread N columns of a row. Moves 3 width elements a row: the least there is.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) swiglu_forward_kernel(SwigluForwardArgs a) {
  const auto [row, column] = place_of_thread<kThreads>(static_cast<unsigned>(a.width / N));
  if (row >= a.rows) return;
  const T* gate = static_cast<const T*>(a.packed) + row * 2 * a.width + column * N;
  const auto g = load_pack<N>(gate), u = load_pack<N>(gate + a.width);
  Pack<T, N> h;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = static_cast<float>(g.v[i]);
    store(h.v[i], x * sigmoid<T>(x) * static_cast<float>(u.v[i]));
  }
  store_pack(static_cast<T*>(a.h) + row * a.width + column * N, h);
}

// One thread N columns of a row. Moves 5 width elements a row: the least there is.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) swiglu_backward_kernel(SwigluBackwardArgs a) {
  const auto [row, column] = place_of_thread<kThreads>(static_cast<unsigned>(a.width / N));
  if (row >= a.rows) return;
  const int64_t at = row * 2 * a.width + column * N;
  const T* gate = static_cast<const T*>(a.packed) + at;
  const auto g = load_pack<N>(gate), u = load_pack<N>(gate + a.width);
  const auto dh = load_pack<N>(static_cast<const T*>(a.dh) + row * a.width + column * N);
  Pack<T, N> dg, du;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = static_cast<float>(g.v[i]), d = static_cast<float>(dh.v[i]);
    const float s = sigmoid<T>(x);
    store(dg.v[i], d * static_cast<float>(u.v[i]) * s * (1.0f + x * (1.0f - s)));
    store(du.v[i], d * x * s);
  }
  T* dgate = static_cast<T*>(a.dpacked) + at;
  store_pack(dgate, dg);
  store_pack(dgate + a.width, du);
}

}  // namespace

void swiglu_forward(const SwigluForwardArgs& a) {
  if (a.rows == 0 || a.width == 0) return;
  dispatch_gpu("swiglu", a.dtype, [&]<class T>(T) {
    const bool packed = a.width % kPackOf<T> == 0 && aligned_to(16, a.packed, a.h);
    dispatch_packed<kPackOf<T>>(packed, [&]<int N>(std::integral_constant<int, N>) {
      launch(&swiglu_forward_kernel<T, N>, {blocks_for(a.rows * (a.width / N), kThreads), kThreads}, a);
    });
  });
}

void swiglu_backward(const SwigluBackwardArgs& a) {
  if (a.rows == 0 || a.width == 0) return;
  dispatch_gpu("swiglu_backward", a.dtype, [&]<class T>(T) {
    const bool packed = a.width % kPackOf<T> == 0 && aligned_to(16, a.packed, a.dh, a.dpacked);
    dispatch_packed<kPackOf<T>>(packed, [&]<int N>(std::integral_constant<int, N>) {
      launch(&swiglu_backward_kernel<T, N>, {blocks_for(a.rows * (a.width / N), kThreads), kThreads}, a);
    });
  });
}

}  // namespace t6::cuda
