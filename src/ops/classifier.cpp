#include "ops/classifier.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "ops/kernel.h"
#include "ops/matmul.h"
#include "ops/simd_math.h"
#include "tensor/parallel.h"

namespace t6 {
namespace cpu {
namespace {

// Calls f(S{}) with the type of logits and statistics.
template <class F>
void dispatch_statistics(DType dtype, F&& f) {
  if (dtype == DType::f64) {
    f(double{});
  } else {
    f(float{});
  }
}

// Rounds a row to bf16 in place. Block by block, as the two types share bytes: each block is read before it is written,
// and what is written lies in front of what is still to be read.
void narrow_in_place(float* row, int64_t count) {
  constexpr int64_t kBlock = 256;
  float wide[kBlock];
  bfloat16 narrow[kBlock];
  char* bytes = reinterpret_cast<char*>(row);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    std::memcpy(wide, bytes + begin * 4, static_cast<size_t>(n) * 4);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(narrow[i], wide[i]);
    std::memcpy(bytes + begin * 2, narrow, static_cast<size_t>(n) * 2);
  }
}

// One row: returns its loss and, with `gradient`, leaves gradient_scale (softmax - onehot) in place of the logits.
template <class S>
S cross_entropy_row(S* z, int64_t columns, int64_t target, S gradient_scale, bool gradient) {
  S top = -std::numeric_limits<S>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < columns; ++j) top = std::max(top, z[j]);
  const S target_logit = z[target];
  S sum = 0;
  if (!gradient) {
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) sum += simd_exp(z[j] - top);
  } else {
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) {
      const S e = simd_exp(z[j] - top);
      z[j] = e;
      sum += e;
    }
    const S factor = gradient_scale / sum;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) z[j] *= factor;
    z[target] -= gradient_scale;
  }
  return std::log(sum) + (top - target_logit);
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    if (a.targets[row] < 0 || a.targets[row] >= a.columns) {
      fail(ExitCode::data,
           "[classifier] expected targets in [0, {}), got {} in row {} of the chunk; the data was made for another "
           "vocabulary",
           a.columns, a.targets[row], row);
    }
  }
  dispatch_statistics(a.logits_dtype, [&]<class S>(S) {
    parallel_for(a.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        S* z = static_cast<S*>(a.logits) + row * a.columns;
        static_cast<S*>(a.row_losses)[row] =
            cross_entropy_row(z, a.columns, a.targets[row], static_cast<S>(a.gradient_scale), a.gradient);
        if constexpr (std::is_same_v<S, float>) {
          if (a.gradient && a.gradient_dtype == DType::bf16) narrow_in_place(z, a.columns);
        }
      }
    });
  });
}

void mean_loss(const MeanLossArgs& a) {
  dispatch_statistics(a.dtype, [&]<class S>(S) {
    double sum = 0;
    for (int64_t row = 0; row < a.rows; ++row) sum += static_cast<double>(static_cast<const S*>(a.row_losses)[row]);
    *static_cast<S*>(a.loss) = static_cast<S>(a.scale / static_cast<double>(a.rows) * sum);
  });
}

}  // namespace cpu

namespace {

constexpr Kernel<CrossEntropyArgs> kCrossEntropy{"cross_entropy", &cpu::cross_entropy,
                                                 T6_CUDA_KERNEL(cuda::cross_entropy)};
constexpr Kernel<MeanLossArgs> kMeanLoss{"mean_loss", &cpu::mean_loss, T6_CUDA_KERNEL(cuda::mean_loss)};

// Rows of n against every row of wte.
void logits_of(const Tensor& n, const Tensor& wte, const Tensor& logits) {
  const int64_t width = wte.dim(1);
  matmul(n.device(), {.a = n.raw(),
                      .b = wte.raw(),
                      .c = logits.raw(),
                      .m = n.numel() / width,
                      .n = wte.dim(0),
                      .k = width,
                      .lda = width,
                      .ldb = width,
                      .ldc = wte.dim(0),
                      .transpose_b = true,
                      .in_dtype = n.dtype(),
                      .out_dtype = logits.dtype()});
}

void check_operands(const char* op, const Tensor& n, const Tensor& wte) {
  T6_CHECK(wte.shape().rank() == 2 && n.shape().rank() >= 1 && n.dim(-1) == wte.dim(1) && wte.dim(1) > 0,
           "[{}] expected n [rows.., C] and wte [V, C], got {} and {}", op, to_string(n.shape()),
           to_string(wte.shape()));
  T6_CHECK(n.dtype() == wte.dtype(), "[{}] expected n and wte of one dtype, got {} and {}", op, name_of(n.dtype()),
           name_of(wte.dtype()));
}

// dn and dwte of one chunk, from the gradient of its logits: rows `ld` elements apart.
void add_products(const Tensor& dlogits, int64_t ld, const Tensor& n, const Tensor& wte, const Tensor& dn,
                  const Tensor& dwte) {
  const int64_t width = wte.dim(1), columns = wte.dim(0), rows = n.dim(0);
  const DType dtype = n.dtype();
  if (dn.defined()) {
    matmul(n.device(), {.a = dlogits.raw(),
                        .b = wte.raw(),
                        .c = dn.raw(),
                        .m = rows,
                        .n = width,
                        .k = columns,
                        .lda = ld,
                        .ldb = width,
                        .ldc = width,
                        .in_dtype = dtype,
                        .out_dtype = dtype});
  }
  if (dwte.defined()) {
    matmul(n.device(), {.a = dlogits.raw(),
                        .b = n.raw(),
                        .c = dwte.raw(),
                        .m = columns,
                        .n = width,
                        .k = rows,
                        .lda = ld,
                        .ldb = width,
                        .ldc = width,
                        .transpose_a = true,
                        .accumulate = true,
                        .in_dtype = dtype,
                        .out_dtype = dwte.dtype()});
  }
}

}  // namespace

void cross_entropy(Device device, const CrossEntropyArgs& args) {
  kCrossEntropy(device, args);
}

void mean_loss(Device device, const MeanLossArgs& args) {
  kMeanLoss(device, args);
}

Variable classifier_loss(const Variable& n, const Variable& wte, const Tensor& targets, double scale,
                         int64_t chunk_rows, Tensor* row_losses) {
  const Tensor& wv = wte.value();
  check_operands("classifier_loss", n.value(), wv);
  const int64_t width = wv.dim(1), columns = wv.dim(0), rows = n.value().numel() / width;
  T6_CHECK(targets.dtype() == DType::i32 && targets.numel() == rows && targets.device() == wte.device(),
           "[classifier_loss] expected {} i32 targets on {}, got {} {} on {}", rows, to_string(wte.device()),
           name_of(targets.dtype()), to_string(targets.shape()), to_string(targets.device()));
  T6_CHECK(rows > 0 && chunk_rows >= 0,
           "[classifier_loss] expected at least one row and chunk_rows >= 0, got {} and {}", rows, chunk_rows);
  const Tensor nv = n.value().view({rows, width});
  const Device device = nv.device();
  const DType statistics = accumulate_dtype(nv.dtype());
  const DType logits_dtype = device.is_cuda() ? nv.dtype() : statistics;
  const int64_t ld = columns * static_cast<int64_t>(size_of(logits_dtype) / size_of(nv.dtype()));

  const bool with_gradient = recording({&n, &wte});
  const bool parameter = wte.needs_grad() && wte.impl()->leaf == Leaf::parameter;
  Tensor dn, dwte;
  if (with_gradient && n.needs_grad()) dn = Tensor::empty(n.shape(), nv.dtype(), device);
  if (with_gradient && wte.needs_grad())
    dwte = parameter ? gradient_buffer(wte) : Tensor::zeros(wv.shape(), statistics, device);

  chunk_rows = std::min(chunk_rows > 0 ? chunk_rows : classifier_chunk_rows(device), rows);
  const Tensor losses = Tensor::empty({rows}, statistics, device);
  const Tensor chunk = Tensor::empty({chunk_rows, columns}, logits_dtype, device);
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t count = std::min(chunk_rows, rows - begin);
    const Tensor n_rows = nv.rows(begin, count);
    logits_of(n_rows, wv, chunk.rows(0, count));
    kCrossEntropy(device, {chunk.raw(), targets.data<int32_t>() + begin, losses.rows(begin, count).raw(), count,
                           columns, scale / static_cast<double>(rows), with_gradient, logits_dtype, nv.dtype()});
    if (with_gradient) {
      const Tensor dn_rows = dn.defined() ? dn.view({rows, width}).rows(begin, count) : Tensor();
      add_products(chunk, ld, n_rows, wv, dn_rows, dwte);
    }
  }
  if (row_losses != nullptr) *row_losses = losses;

  Variable loss(Tensor::empty({1}, statistics, device));
  kMeanLoss(device, {losses.raw(), loss.value().raw(), rows, scale, statistics});
  record("classifier_loss", {n, wte}, {&loss}, [dn, held = parameter ? Tensor() : dwte](Gradients& g) {
    T6_CHECK(g.is_root(),
             "[classifier_loss] the loss must be the root of backward(): its gradients are formed with it");
    if (g.needs(0)) g.give(0, dn);
    if (g.needs(1) && held.defined()) g.give(1, held);
  });
  return loss;
}

Tensor classifier_logits(const Tensor& n, const Tensor& wte) {
  check_operands("classifier_logits", n, wte);
  std::vector<int64_t> dims(n.shape().begin(), n.shape().end());
  dims.back() = wte.dim(0);
  const Tensor logits = Tensor::empty(Shape(dims), accumulate_dtype(n.dtype()), n.device());
  logits_of(n, wte, logits);
  return logits;
}

}  // namespace t6
