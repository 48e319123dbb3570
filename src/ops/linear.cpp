#include "ops/linear.h"

#include "base/error.h"
#include "ops/matmul.h"

namespace t6 {

Variable linear(const Variable& x, const Variable& weight, std::optional<DType> y_dtype) {
  const Tensor &xv = x.value(), &wv = weight.value();
  T6_CHECK(wv.shape().rank() == 2 && xv.shape().rank() >= 1 && xv.dim(-1) == wv.dim(1),
           "[linear] expected x [rows.., in] and a weight [out, in], got {} and {}", to_string(xv.shape()),
           to_string(wv.shape()));
  T6_CHECK(xv.dtype() == wv.dtype(), "[linear] expected x and weight of one dtype, got {} and {}", name_of(xv.dtype()),
           name_of(wv.dtype()));
  const int64_t out = wv.dim(0), in = wv.dim(1), rows = in > 0 ? xv.numel() / in : 0;
  const DType dtype = xv.dtype();
  std::vector<int64_t> dims(xv.shape().begin(), xv.shape().end());
  dims.back() = out;

  Variable y(Tensor::empty(Shape(dims), y_dtype.value_or(dtype), xv.device()));
  matmul(xv.device(), {.a = xv.raw(),
                       .b = wv.raw(),
                       .c = y.value().raw(),
                       .m = rows,
                       .n = out,
                       .k = in,
                       .lda = in,
                       .ldb = in,
                       .ldc = out,
                       .transpose_b = true,
                       .in_dtype = dtype,
                       .out_dtype = y.dtype()});

  record("linear", {x, weight}, {&y}, [xv, wv, rows, out, in, dtype](Gradients& g) {
    const Tensor dy = g.output(0).to(dtype);
    if (g.needs(1)) {
      const Tensor dw = g.accumulator(1);
      matmul(xv.device(), {.a = dy.raw(),
                           .b = xv.raw(),
                           .c = dw.raw(),
                           .m = out,
                           .n = in,
                           .k = rows,
                           .lda = out,
                           .ldb = in,
                           .ldc = in,
                           .transpose_a = true,
                           .accumulate = true,
                           .in_dtype = dtype,
                           .out_dtype = dw.dtype()});
    }
    if (g.needs(0)) {
      const Tensor dx = Tensor::empty(xv.shape(), dtype, xv.device());
      matmul(xv.device(), {.a = dy.raw(),
                           .b = wv.raw(),
                           .c = dx.raw(),
                           .m = rows,
                           .n = in,
                           .k = out,
                           .lda = out,
                           .ldb = in,
                           .ldc = in,
                           .in_dtype = dtype,
                           .out_dtype = dtype});
      g.give(0, dx);
    }
  });
  return y;
}

}  // namespace t6
