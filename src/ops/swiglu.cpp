#include "ops/swiglu.h"

#include "ops/kernel.h"
#include "ops/simd_math.h"
#include "tensor/parallel.h"

namespace t6 {
namespace cpu {
namespace {

constexpr int64_t kGrainElements = 1 << 13;

int64_t row_grain(int64_t width) {
  return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, width));
}

}  // namespace

void swiglu_forward(const SwigluForwardArgs& a) {
  dispatch_float(a.dtype, [&]<class T>(T) {
    using S = Accumulate<T>;
    parallel_for(a.rows, row_grain(a.width), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* gate = static_cast<const T*>(a.packed) + row * 2 * a.width;
        const T* up = gate + a.width;
        T* h = static_cast<T*>(a.h) + row * a.width;
#pragma omp simd
        for (int64_t i = 0; i < a.width; ++i) {
          const S g = static_cast<S>(gate[i]);
          store(h[i], g * simd_sigmoid(g) * static_cast<S>(up[i]));
        }
      }
    });
  });
}

void swiglu_backward(const SwigluBackwardArgs& a) {
  dispatch_float(a.dtype, [&]<class T>(T) {
    using S = Accumulate<T>;
    parallel_for(a.rows, row_grain(a.width), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* gate = static_cast<const T*>(a.packed) + row * 2 * a.width;
        const T* up = gate + a.width;
        const T* dh = static_cast<const T*>(a.dh) + row * a.width;
        T* dgate = static_cast<T*>(a.dpacked) + row * 2 * a.width;
        T* dup = dgate + a.width;
#pragma omp simd
        for (int64_t i = 0; i < a.width; ++i) {
          const S g = static_cast<S>(gate[i]), d = static_cast<S>(dh[i]);
          const S s = simd_sigmoid(g);
          store(dgate[i], d * static_cast<S>(up[i]) * s * (S(1) + g * (S(1) - s)));
          store(dup[i], d * g * s);
        }
      }
    });
  });
}

}  // namespace cpu

namespace {

constexpr Kernel<SwigluForwardArgs> kForward{"swiglu", &cpu::swiglu_forward, T6_CUDA_KERNEL(cuda::swiglu_forward)};
constexpr Kernel<SwigluBackwardArgs> kBackward{"swiglu_backward", &cpu::swiglu_backward,
                                               T6_CUDA_KERNEL(cuda::swiglu_backward)};

}  // namespace

Variable swiglu(const Variable& packed) {
  const Tensor& pv = packed.value();
  T6_CHECK(pv.dtype() != DType::i32, "[swiglu] expected a floating-point input, got i32");
  T6_CHECK(pv.shape().rank() >= 1 && pv.dim(-1) % 2 == 0, "[swiglu] expected rows of even width, got {}",
           to_string(pv.shape()));
  const int64_t width = pv.dim(-1) / 2, rows = width > 0 ? pv.numel() / (2 * width) : 0;
  std::vector<int64_t> dims(pv.shape().begin(), pv.shape().end());
  dims.back() = width;

  Variable h(Tensor::empty(Shape(dims), pv.dtype(), pv.device()));
  kForward(pv.device(), {pv.raw(), h.value().raw(), rows, width, pv.dtype()});
  record("swiglu", {packed}, {&h}, [pv, rows, width](Gradients& g) {
    const Tensor dpacked = Tensor::empty(pv.shape(), pv.dtype(), pv.device());
    kBackward(pv.device(), {pv.raw(), g.output(0).raw(), dpacked.raw(), rows, width, pv.dtype()});
    g.give(0, dpacked);
  });
  return h;
}

}  // namespace t6
