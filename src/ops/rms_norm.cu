#include "ops/reduce.cuh"
#include "ops/rms_norm.h"
#include "tensor/cuda.h"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;

// One block a row.
template <class X, class Y>
__global__ void __launch_bounds__(kThreads) rms_norm_forward_kernel(RmsNormForwardArgs a) {
  using S = Accumulate<X>;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * a.width;
  const X* x = static_cast<const X*>(a.x) + at;
  const Y* addend = a.addend != nullptr ? static_cast<const Y*>(a.addend) + at : nullptr;
  const Y* weight = static_cast<const Y*>(a.weight);
  X* sum = a.sum != nullptr ? static_cast<X*>(a.sum) + at : nullptr;
  Y* y = static_cast<Y*>(a.y) + at;

  S squares = 0;
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) {
    S value = static_cast<S>(x[i]);
    if (addend != nullptr) {
      value += static_cast<S>(addend[i]);
      sum[i] = static_cast<X>(value);
      value = static_cast<S>(sum[i]);
    }
    squares += value * value;
  }
  squares = block_sum<kThreads>(squares);
  const S r = S(1) / sqrt(squares / static_cast<S>(a.width) + static_cast<S>(a.eps));
  if (threadIdx.x == 0) static_cast<S*>(a.rstd)[blockIdx.x] = r;
  const X* normed = addend != nullptr ? sum : x;  // each thread reads back what it wrote
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) {
    const S w = weight != nullptr ? static_cast<S>(weight[i]) : S(1);
    y[i] = static_cast<Y>(static_cast<S>(normed[i]) * r * w);
  }
}

// One block a row.
template <class X, class Y>
__global__ void __launch_bounds__(kThreads) rms_norm_backward_kernel(RmsNormBackwardArgs a) {
  using S = Accumulate<X>;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * a.width;
  const X* x = static_cast<const X*>(a.x) + at;
  const Y* weight = static_cast<const Y*>(a.weight);
  const Y* dy = a.dy != nullptr ? static_cast<const Y*>(a.dy) + at : nullptr;
  const X* dsum = a.dsum != nullptr ? static_cast<const X*>(a.dsum) + at : nullptr;
  X* dx = static_cast<X*>(a.dx) + at;
  Y* daddend = a.daddend != nullptr ? static_cast<Y*>(a.daddend) + at : nullptr;
  const S r = static_cast<const S*>(a.rstd)[blockIdx.x];

  auto g = [&](int64_t i) {
    const S w = weight != nullptr ? static_cast<S>(weight[i]) : S(1);
    return dy != nullptr ? static_cast<S>(dy[i]) * w : S(0);
  };
  S dot = 0;
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) dot += g(i) * static_cast<S>(x[i]);
  const S slope = r * r * block_sum<kThreads>(dot) / static_cast<S>(a.width);
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) {
    const S through = dsum != nullptr ? static_cast<S>(dsum[i]) : S(0);
    const S d = through + r * (g(i) - static_cast<S>(x[i]) * slope);
    dx[i] = static_cast<X>(d);
    if (daddend != nullptr) daddend[i] = static_cast<Y>(d);
  }
}

// One thread a column, so that every sum runs over the rows in order.
template <class X, class Y>
__global__ void rms_norm_weight_kernel(RmsNormBackwardArgs a) {
  using S = Accumulate<X>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  S sum = 0;
  for (int64_t row = 0; row < a.rows; ++row) {
    sum += static_cast<S>(static_cast<const Y*>(a.dy)[row * a.width + i]) *
           static_cast<S>(static_cast<const X*>(a.x)[row * a.width + i]) * static_cast<const S*>(a.rstd)[row];
  }
  static_cast<S*>(a.dweight)[i] += sum;
}

// Calls f(X{}, Y{}) for the pairs of dtypes that run on a GPU; f64 is for checks on the CPU.
template <class F>
void dispatch(const char* op, DType x, DType y, F&& f) {
  T6_CHECK(x != DType::f64, "{}: f64 is not built for cuda", op);
  if (x == DType::bf16) {
    f(bfloat16{}, bfloat16{});
  } else if (y == DType::bf16) {
    f(float{}, bfloat16{});
  } else {
    f(float{}, float{});
  }
}

}  // namespace

void rms_norm_forward(const RmsNormForwardArgs& a) {
  if (a.rows == 0) return;
  dispatch("rms_norm", a.x_dtype, a.y_dtype, [&]<class X, class Y>(X, Y) {
    launch(&rms_norm_forward_kernel<X, Y>, {static_cast<unsigned>(a.rows), kThreads}, a);
  });
}

void rms_norm_backward(const RmsNormBackwardArgs& a) {
  if (a.rows == 0) return;
  dispatch("rms_norm_backward", a.x_dtype, a.y_dtype, [&]<class X, class Y>(X, Y) {
    launch(&rms_norm_backward_kernel<X, Y>, {static_cast<unsigned>(a.rows), kThreads}, a);
    if (a.dweight != nullptr && a.dy != nullptr) {
      launch(&rms_norm_weight_kernel<X, Y>, {blocks_for(a.width, kThreads), kThreads}, a);
    }
  });
}

}  // namespace t6::cuda
