#include "ops/embedding.h"

#include "ops/kernel.h"
#include "ops/token_order.h"
#include "tensor/parallel.h"

namespace t6 {
namespace cpu {

void embedding_forward(const EmbeddingForwardArgs& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    if (a.tokens[row] < 0 || a.tokens[row] >= a.vocabulary) {
      fail(ExitCode::data,
           "[embedding] expected tokens in [0, {}), got {} at position {}; the data was made for another "
           "vocabulary",
           a.vocabulary, a.tokens[row], row);
    }
  }
  dispatch_float(a.table_dtype, [&]<class X>(X) {
    dispatch_float(a.y_dtype, [&]<class Y>(Y) {
      parallel_for(a.rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const X* x = static_cast<const X*>(a.table) + a.tokens[row] * a.width;
          Y* y = static_cast<Y*>(a.y) + row * a.width;
#pragma omp simd
          for (int64_t i = 0; i < a.width; ++i)
            store(y[i], static_cast<Accumulate<Y>>(static_cast<Accumulate<X>>(x[i])));
        }
      });
    });
  });
}

// Columns are split over threads, so that every sum runs over the tokens in order whatever the thread count.
void embedding_backward(const EmbeddingBackwardArgs& a) {
  dispatch_float(a.y_dtype, [&]<class Y>(Y) {
    using S = Accumulate<Y>;
    const int64_t grain = std::max<int64_t>(16, 16384 / std::max<int64_t>(1, a.rows));
    parallel_for(a.width, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = 0; row < a.rows; ++row) {
        S* dtable = static_cast<S*>(a.dtable) + a.tokens[row] * a.width;
        const Y* dy = static_cast<const Y*>(a.dy) + row * a.width;
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) dtable[i] += static_cast<S>(dy[i]);
      }
    });
  });
}

}  // namespace cpu

namespace {

constexpr Kernel<EmbeddingForwardArgs> kForward{"embedding", &cpu::embedding_forward,
                                                T6_CUDA_KERNEL(cuda::embedding_forward)};
constexpr Kernel<EmbeddingBackwardArgs> kBackward{"embedding_backward", &cpu::embedding_backward,
                                                  T6_CUDA_KERNEL(cuda::embedding_backward)};

}  // namespace

Variable embedding(const Variable& table, const Tensor& tokens, DType y_dtype) {
  const Tensor& tv = table.value();
  T6_CHECK(tv.shape().rank() == 2 && tokens.dtype() == DType::i32 && tokens.shape().rank() < Shape::kMaxRank,
           "[embedding] expected a table [V, C] and i32 tokens, got {} and {} {}", to_string(tv.shape()),
           name_of(tokens.dtype()), to_string(tokens.shape()));
  T6_CHECK(
      accumulate_dtype(tv.dtype()) == accumulate_dtype(y_dtype) && tv.dtype() != DType::i32 && y_dtype != DType::i32,
      "[embedding] expected f32 or bf16 from f32 or bf16, or f64 from f64, got {} from {}", name_of(y_dtype),
      name_of(tv.dtype()));
  T6_CHECK(tokens.device() == tv.device(), "[embedding] expected tokens on {}, got them on {}", to_string(tv.device()),
           to_string(tokens.device()));
  const int64_t rows = tokens.numel(), width = tv.dim(1);
  std::vector<int64_t> dims(tokens.shape().begin(), tokens.shape().end());
  dims.push_back(width);

  Variable y(Tensor::empty(Shape(dims), y_dtype, tv.device()));
  kForward(tv.device(),
           {tv.raw(), tokens.data<int32_t>(), y.value().raw(), rows, width, tv.dim(0), tv.dtype(), y_dtype});
  record("embedding", {table}, {&y}, [tokens, rows, width, vocabulary = tv.dim(0)](Gradients& g) {
    const Tensor& dy = g.output(0);
    const Tensor dtable = g.accumulator(0);
    Tensor order, pieces;
    if (dy.device().is_cuda()) {
      order = Tensor::empty({cuda::token_order_scratch(rows)}, DType::i32, dy.device());
      pieces = Tensor::empty({(rows + kEmbeddingPiece - 1) / kEmbeddingPiece, width}, DType::f32, dy.device());
    }
    kBackward(dy.device(), {dy.raw(), tokens.data<int32_t>(), dtable.raw(), rows, width, vocabulary, dy.dtype(),
                            static_cast<int32_t*>(order.raw()), static_cast<float*>(pieces.raw())});
  });
  return y;
}

}  // namespace t6
