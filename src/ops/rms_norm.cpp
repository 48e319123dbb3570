#include "ops/rms_norm.h"

#include <cmath>

#include "ops/kernel.h"
#include "tensor/parallel.h"

namespace t6 {
namespace cpu {
namespace {

constexpr int64_t kRowGrain = 8;

// Calls f(X{}, Y{}) for the pairs of dtypes the operation takes.
template <class F>
void dispatch(DType x, DType y, F&& f) {
  if (x == DType::f64) {
    f(double{}, double{});
  } else if (x == DType::bf16) {
    f(bfloat16{}, bfloat16{});
  } else if (y == DType::bf16) {
    f(float{}, bfloat16{});
  } else {
    f(float{}, float{});
  }
}

template <class X, class Y>
void forward_row(const X* x, const Y* addend, const Y* weight, X* sum, Y* y, Accumulate<X>* rstd, int64_t width,
                 double eps) {
  using S = Accumulate<X>;
  if (addend != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(sum[i], static_cast<S>(x[i]) + static_cast<S>(addend[i]));
    x = sum;
  }
  S squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; ++i) squares += static_cast<S>(x[i]) * static_cast<S>(x[i]);
  const S r = S(1) / std::sqrt(squares / static_cast<S>(width) + static_cast<S>(eps));
  *rstd = r;
  if (weight == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(y[i], static_cast<S>(x[i]) * r);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(y[i], static_cast<S>(x[i]) * r * static_cast<S>(weight[i]));
  }
}

template <class X, class Y>
void backward_row(const RmsNormBackwardArgs& a, int64_t row) {
  using S = Accumulate<X>;
  const int64_t width = a.width, at = row * width;
  const X* x = static_cast<const X*>(a.x) + at;
  const Y* weight = static_cast<const Y*>(a.weight);
  const Y* dy = a.dy != nullptr ? static_cast<const Y*>(a.dy) + at : nullptr;
  const X* dsum = a.dsum != nullptr ? static_cast<const X*>(a.dsum) + at : nullptr;
  X* dx = static_cast<X*>(a.dx) + at;
  const S r = static_cast<const S*>(a.rstd)[row];

  auto g = [=](int64_t i) {
    return weight != nullptr ? static_cast<S>(dy[i]) * static_cast<S>(weight[i]) : static_cast<S>(dy[i]);
  };
  if (dy != nullptr) {
    S dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < width; ++i) dot += g(i) * static_cast<S>(x[i]);
    const S slope = r * r * dot / static_cast<S>(width);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const S through = dsum != nullptr ? static_cast<S>(dsum[i]) : S(0);
      store(dx[i], through + r * (g(i) - static_cast<S>(x[i]) * slope));
    }
  } else {
    for (int64_t i = 0; i < width; ++i) dx[i] = dsum != nullptr ? dsum[i] : static_cast<X>(S(0));
  }
  if (a.daddend != nullptr) {
    Y* daddend = static_cast<Y*>(a.daddend) + at;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(daddend[i], static_cast<S>(dx[i]));
  }
}

// Columns are split over threads, so that every sum runs over the rows in order whatever the thread count.
template <class X, class Y>
void add_weight_gradient(const RmsNormBackwardArgs& a) {
  using S = Accumulate<X>;
  parallel_for(a.width, 64, [&](int64_t begin, int64_t end) {
    S* dw = static_cast<S*>(a.dweight);
    for (int64_t row = 0; row < a.rows; ++row) {
      const X* x = static_cast<const X*>(a.x) + row * a.width;
      const Y* dy = static_cast<const Y*>(a.dy) + row * a.width;
      const S r = static_cast<const S*>(a.rstd)[row];
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dw[i] += static_cast<S>(dy[i]) * static_cast<S>(x[i]) * r;
    }
  });
}

}  // namespace

void rms_norm_forward(const RmsNormForwardArgs& a) {
  dispatch(a.x_dtype, a.y_dtype, [&]<class X, class Y>(X, Y) {
    parallel_for(a.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t at = row * a.width;
        const Y* addend = a.addend != nullptr ? static_cast<const Y*>(a.addend) + at : nullptr;
        X* sum = a.sum != nullptr ? static_cast<X*>(a.sum) + at : nullptr;
        forward_row(static_cast<const X*>(a.x) + at, addend, static_cast<const Y*>(a.weight), sum,
                    static_cast<Y*>(a.y) + at, static_cast<Accumulate<X>*>(a.rstd) + row, a.width, a.eps);
      }
    });
  });
}

void rms_norm_backward(const RmsNormBackwardArgs& a) {
  dispatch(a.x_dtype, a.y_dtype, [&]<class X, class Y>(X, Y) {
    parallel_for(a.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) backward_row<X, Y>(a, row);
    });
    if (a.dweight != nullptr && a.dy != nullptr) add_weight_gradient<X, Y>(a);
  });
}

}  // namespace cpu

namespace {

constexpr Kernel<RmsNormForwardArgs> kForward{"rms_norm", &cpu::rms_norm_forward,
                                              T6_CUDA_KERNEL(cuda::rms_norm_forward)};
constexpr Kernel<RmsNormBackwardArgs> kBackward{"rms_norm_backward", &cpu::rms_norm_backward,
                                                T6_CUDA_KERNEL(cuda::rms_norm_backward)};

void check_dtypes(const char* op, DType x, DType y) {
  const bool known = x == y ? x != DType::i32 : x == DType::f32 && y == DType::bf16;
  T6_CHECK(known, "[{}] expected dtypes f32 -> f32, f32 -> bf16, bf16 -> bf16 or f64 -> f64, got {} -> {}", op,
           name_of(x), name_of(y));
}

int64_t rows_of(const Tensor& x) {
  return x.dim(-1) > 0 ? x.numel() / x.dim(-1) : 0;
}

void* raw_or_null(const Tensor& t) {
  return t.defined() ? t.raw() : nullptr;
}

}  // namespace

Variable rms_norm(const Variable& x, double eps, DType y_dtype, const Variable& weight) {
  const Tensor& xv = x.value();
  const Tensor wv = weight.defined() ? weight.value() : Tensor();
  const int64_t rows = rows_of(xv), width = xv.dim(-1);
  check_dtypes("rms_norm", xv.dtype(), y_dtype);
  T6_CHECK(!wv.defined() || (wv.numel() == width && wv.dtype() == y_dtype),
           "[rms_norm] expected a weight [{}] of {}, got {} of {}", width, name_of(y_dtype), to_string(wv.shape()),
           name_of(wv.dtype()));

  Variable y(Tensor::empty(xv.shape(), y_dtype, xv.device()));
  const Tensor rstd = Tensor::empty({rows}, accumulate_dtype(xv.dtype()), xv.device());
  kForward(xv.device(), {xv.raw(), nullptr, raw_or_null(wv), nullptr, y.value().raw(), rstd.raw(), rows, width, eps,
                         xv.dtype(), y_dtype});

  auto backward = [xv, wv, rstd, rows, width, y_dtype](Gradients& g) {
    const Tensor dx = Tensor::empty(xv.shape(), xv.dtype(), xv.device());
    const Tensor dw = wv.defined() && g.needs(1) ? g.accumulator(1) : Tensor();
    kBackward(xv.device(), {xv.raw(), rstd.raw(), raw_or_null(wv), g.output(0).raw(), nullptr, dx.raw(), nullptr,
                            raw_or_null(dw), rows, width, xv.dtype(), y_dtype});
    g.give(0, dx);
  };
  std::vector<Variable> inputs{x};
  if (weight.defined()) inputs.push_back(weight);
  record("rms_norm", inputs, {&y}, std::move(backward));
  return y;
}

AddRmsNorm add_rms_norm(const Variable& x, const Variable& a, double eps) {
  const Tensor& xv = x.value();
  const Tensor& av = a.value();
  const int64_t rows = rows_of(xv), width = xv.dim(-1);
  check_dtypes("add_rms_norm", xv.dtype(), av.dtype());
  T6_CHECK(xv.shape() == av.shape(), "[add_rms_norm] expected equal shapes, got {} and {}", to_string(xv.shape()),
           to_string(av.shape()));

  AddRmsNorm out{Variable(Tensor::empty(xv.shape(), xv.dtype(), xv.device())),
                 Variable(Tensor::empty(av.shape(), av.dtype(), av.device()))};
  const Tensor sum = out.sum.value();
  const Tensor rstd = Tensor::empty({rows}, accumulate_dtype(xv.dtype()), xv.device());
  kForward(xv.device(), {xv.raw(), av.raw(), nullptr, sum.raw(), out.norm.value().raw(), rstd.raw(), rows, width, eps,
                         xv.dtype(), av.dtype()});

  auto backward = [sum, rstd, rows, width, a_dtype = av.dtype()](Gradients& g) {
    const Tensor dx = Tensor::empty(sum.shape(), sum.dtype(), sum.device());
    const bool one_tensor_for_both = a_dtype == sum.dtype();
    const Tensor da = one_tensor_for_both ? dx : Tensor::empty(sum.shape(), a_dtype, sum.device());
    kBackward(sum.device(),
              {sum.raw(), rstd.raw(), nullptr, raw_or_null(g.output(1)), raw_or_null(g.output(0)), dx.raw(),
               one_tensor_for_both ? nullptr : da.raw(), nullptr, rows, width, sum.dtype(), a_dtype});
    g.give(0, dx);
    g.give(1, da);
  };
  record("add_rms_norm", {x, a}, {&out.sum, &out.norm}, std::move(backward));
  return out;
}

}  // namespace t6
