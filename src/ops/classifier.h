// The tied output head fused with its loss: logits, softmax cross-entropy and both gradients, a chunk of rows at a
// time.
//
//   z = n wte^T,  loss = scale / rows sum_i (log sum_j e^z[i,j] - z[i, target[i]])
//   dz = scale / rows (softmax(z) - onehot(target)),  dn = dz wte,  dwte += dz^T n
//
// The softmax runs over every column of wte. Only one chunk of the [rows, V] logits exists at a time, its gradient
// replaces it in place, and nothing is computed twice. Statistics, loss and dwte are f32 (f64 for f64); on the CPU
// logits are f32 too, on CUDA a bf16 model's are bf16; their gradient has the dtype of n.
#pragma once

#include "autograd/variable.h"
#include "ops/work.h"

namespace t6 {

// Rows of logits that exist at a time. On the CPU more rows make nothing faster. On a GPU every chunk reads and writes
// all of the f32 dwte (8 V C bytes) beside its product of 2 V C rows FLOPs: at 3 TB/s and 790 TFLOP/s both take as long
// at some 1000 rows, and at 8192 the traffic is an eighth; their bf16 logits are 0.8 GB at V = 50304.
inline int64_t classifier_chunk_rows(Device device) {
  return device.is_cuda() ? 8192 : 1024;
}

// n [rows.., C] and wte [V, C] of one dtype (f32, bf16, f64), targets i32 with one element a row -> loss [1] in f32
// (f64). `row_losses`, when not null, receives the unscaled loss of each row, [rows] in f32 (f64). chunk_rows trades
// memory (chunk_rows x V logits) for speed; 0: classifier_chunk_rows(). A target outside [0, V) is Error(data) on the
// CPU; on CUDA the caller has checked them.
//
// While recording, the gradients are formed in this call already:
//   - when wte is a parameter, dwte is added to its gradient buffer here, so gradients are cleared and buffers attached
//     before the forward pass; its ready-hook still fires in backward(), after the last operation that reads wte;
//   - the loss must be the root of backward(), where Error(internal) is thrown otherwise.
// Under NoGrad the loss alone is computed. Saves dn, and dwte when wte is no parameter.
Variable classifier_loss(const Variable& n, const Variable& wte, const Tensor& targets, double scale,
                         int64_t chunk_rows = 0, Tensor* row_losses = nullptr);

// The logits themselves, [rows.., V] in f32 (f64), off the tape.
Tensor classifier_logits(const Tensor& n, const Tensor& wte);

// Kernel contracts.
struct CrossEntropyArgs {
  void* logits;            // [rows, columns] of logits_dtype, contiguous; destroyed when `gradient`
  const int32_t* targets;  // [rows]
  void* row_losses;        // [rows] of the accumulate type
  int64_t rows;
  int64_t columns;
  double gradient_scale;  // factor on softmax - onehot
  bool gradient;         // write the gradient over the logits: each row, of gradient_dtype, from where its logits began
  DType logits_dtype;    // f32, f64; on CUDA also bf16
  DType gradient_dtype;  // logits_dtype, or bf16 over f32
};

struct MeanLossArgs {
  const void* row_losses;  // [rows] of dtype
  void* loss;              // [1]: scale / rows times their sum, added up in f64: in row order, on CUDA in a fixed tree
  int64_t rows;
  double scale;
  DType dtype;  // f32, f64
};

inline double bytes_of(const CrossEntropyArgs& a) {
  const int64_t n = a.rows * a.columns;
  return bytes_of(n, a.logits_dtype) + bytes_of(a.gradient ? n : 0, a.gradient_dtype) + bytes_of(a.rows, DType::i32) +
         bytes_of(a.rows, accumulate_dtype(a.logits_dtype));
}
inline double bytes_of(const MeanLossArgs& a) {
  return bytes_of(a.rows + 1, a.dtype);
}

// What classifier_loss() is made of, on its own.
void cross_entropy(Device device, const CrossEntropyArgs& args);
void mean_loss(Device device, const MeanLossArgs& args);

namespace cpu {
void cross_entropy(const CrossEntropyArgs& args);
void mean_loss(const MeanLossArgs& args);
}  // namespace cpu
namespace cuda {
void cross_entropy(const CrossEntropyArgs& args);
void mean_loss(const MeanLossArgs& args);
}  // namespace cuda

}  // namespace t6
