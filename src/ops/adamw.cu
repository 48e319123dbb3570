#include <cmath>

#include "ops/adamw.h"
#include "ops/packs.cuh"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;

struct Factors {
  float pull1, beta2, pull2, step_size, keep, v_scale, eps, gradient_scale;
};

// Fused operations are written out: an element gets the same bits in a pack as alone.
__device__ inline void update(float& p, float& m, float& v, float gradient, float scale, const Factors& f) {
  const float g = scale * gradient;
  m = fmaf(f.pull1, g - m, m);
  v = fmaf(f.beta2, v, f.pull2 * g * g);
  p = fmaf(p, f.keep, -(f.step_size * m / fmaf(sqrtf(v), f.v_scale, f.eps)));
}

// One thread N elements; the last ones of a count that N does not divide one by one. Moves 28 bytes an element and 2
// more with a copy: the least there is.
template <int N>
__global__ void __launch_bounds__(kThreads) adamw_kernel(AdamWArgs a, Factors f) {
  const float scale = a.clip != nullptr ? f.gradient_scale * *a.clip : f.gradient_scale;
  if (std::isnan(scale)) return;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at + N <= a.count) {
    auto p = load_pack<N>(a.parameter + at), m = load_pack<N>(a.m + at), v = load_pack<N>(a.v + at);
    const auto g = load_pack<N>(a.gradient + at);
    Pack<bfloat16, N> copy;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      update(p.v[i], m.v[i], v.v[i], g.v[i], scale, f);
      store(copy.v[i], p.v[i]);
    }
    store_pack(a.parameter + at, p);
    store_pack(a.m + at, m);
    store_pack(a.v + at, v);
    if (a.copy != nullptr) store_pack(a.copy + at, copy);
    return;
  }
  for (int64_t i = at; i < a.count; ++i) {
    update(a.parameter[i], a.m[i], a.v[i], a.gradient[i], scale, f);
    if (a.copy != nullptr) store(a.copy[i], a.parameter[i]);
  }
}

}  // namespace

void adamw(const AdamWArgs& a) {
  if (a.count == 0) return;
  const double t = static_cast<double>(a.step);
  const Factors factors{.pull1 = static_cast<float>(1 - a.beta1),
                        .beta2 = static_cast<float>(a.beta2),
                        .pull2 = static_cast<float>(1 - a.beta2),
                        .step_size = static_cast<float>(a.lr / (1 - std::pow(a.beta1, t))),
                        .keep = static_cast<float>(1 - a.lr * a.weight_decay),
                        .v_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(a.beta2, t))),
                        .eps = static_cast<float>(a.eps),
                        .gradient_scale = static_cast<float>(a.gradient_scale)};
  const bool packed = aligned_to(16, a.parameter, a.gradient, a.m, a.v) && aligned_to(8, a.copy);
  dispatch_packed<4>(packed, [&]<int N>(std::integral_constant<int, N>) {
    launch(&adamw_kernel<N>, {blocks_for(a.count, kThreads * N), kThreads}, a, factors);
  });
}

}  // namespace t6::cuda
