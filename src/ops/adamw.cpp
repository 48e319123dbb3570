#include "ops/adamw.h"

#include <cmath>

#include "ops/kernel.h"
#include "tensor/parallel.h"

namespace t6 {
namespace cpu {

void adamw(const AdamWArgs& a) {
  const double t = static_cast<double>(a.step);
  const float scale = static_cast<float>(a.gradient_scale) * (a.clip != nullptr ? *a.clip : 1.0F);
  if (std::isnan(scale)) return;
  const float keep = static_cast<float>(1.0 - a.lr * a.weight_decay);
  const float pull1 = static_cast<float>(1.0 - a.beta1);
  const float beta2 = static_cast<float>(a.beta2), pull2 = static_cast<float>(1.0 - a.beta2);
  const float step_size = static_cast<float>(a.lr / (1.0 - std::pow(a.beta1, t)));
  const float v_scale = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(a.beta2, t)));
  const float eps = static_cast<float>(a.eps);

  auto update = [&](int64_t i) {
    const float g = a.gradient[i] * scale;
    const float m = a.m[i] + pull1 * (g - a.m[i]);
    const float v = beta2 * a.v[i] + pull2 * g * g;
    a.m[i] = m;
    a.v[i] = v;
    return a.parameter[i] * keep - step_size * m / (std::sqrt(v) * v_scale + eps);
  };
  parallel_for(a.count, 1 << 14, [&](int64_t begin, int64_t end) {
    if (a.copy == nullptr) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) a.parameter[i] = update(i);
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float p = update(i);
        a.parameter[i] = p;
        store(a.copy[i], p);
      }
    }
  });
}

}  // namespace cpu

namespace {
constexpr Kernel<AdamWArgs> kAdamW{"adamw", &cpu::adamw, T6_CUDA_KERNEL(cuda::adamw)};
}  // namespace

void adamw(Device device, const AdamWArgs& args) {
  T6_CHECK(args.step >= 1, "[adamw] expected a step of 1 or more, got {}", args.step);
  if (args.count > 0) kAdamW(device, args);
}

}  // namespace t6
