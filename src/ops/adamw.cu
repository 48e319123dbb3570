#include <cmath>

#include "ops/adamw.h"
#include "tensor/cuda.h"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;

struct Factors {
  float beta1, beta2, step_size, decay, root_scale, eps, gradient_scale;
};

// One thread an element.
__global__ void __launch_bounds__(kThreads) adamw_kernel(AdamWArgs a, Factors f) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.count) return;
  const float scale = a.clip != nullptr ? f.gradient_scale * *a.clip : f.gradient_scale;
  const float g = scale * a.gradient[i];
  const float m = a.m[i] + (1.0f - f.beta1) * (g - a.m[i]);
  const float v = f.beta2 * a.v[i] + (1.0f - f.beta2) * g * g;
  const float p = a.parameter[i] * f.decay - f.step_size * m / (sqrtf(v) * f.root_scale + f.eps);
  a.m[i] = m;
  a.v[i] = v;
  a.parameter[i] = p;
  if (a.copy != nullptr) a.copy[i] = bfloat16(p);
}

}  // namespace

void adamw(const AdamWArgs& a) {
  if (a.count == 0) return;
  const double step = static_cast<double>(a.step);
  const Factors factors{static_cast<float>(a.beta1),
                        static_cast<float>(a.beta2),
                        static_cast<float>(a.lr / (1 - std::pow(a.beta1, step))),
                        static_cast<float>(1 - a.lr * a.weight_decay),
                        static_cast<float>(1 / std::sqrt(1 - std::pow(a.beta2, step))),
                        static_cast<float>(a.eps),
                        static_cast<float>(a.gradient_scale)};
  launch(&adamw_kernel, {blocks_for(a.count, kThreads), kThreads}, a, factors);
}

}  // namespace t6::cuda
