// Token embedding: rows of a table.
//
//   x[i] = table[token[i]],   dtable[token[i]] += dx[i]
#pragma once

#include "autograd/variable.h"

namespace t6 {

// table [V, C] (f32, bf16, f64), tokens i32 [shape..] -> [shape.., C] of y_dtype (f32 or bf16 from f32 or bf16; f64
// from f64). The gradient is added into the table's f32 (f64) buffer, in the order of the tokens whatever the thread
// count. Saves tokens. On the CPU a token outside [0, V) is Error(data); on CUDA the caller has checked them.
Variable embedding(const Variable& table, const Tensor& tokens, DType y_dtype);

// Kernel contracts. Rows are contiguous.
struct EmbeddingForwardArgs {
  const void* table;  // [vocabulary, width] of table_dtype
  const int32_t* tokens;
  void* y;  // [rows, width] of y_dtype
  int64_t rows;
  int64_t width;
  int64_t vocabulary;
  DType table_dtype;
  DType y_dtype;
};
struct EmbeddingBackwardArgs {
  const void* dy;  // [rows, width] of y_dtype
  const int32_t* tokens;
  void* dtable;  // [vocabulary, width] of the accumulate type, added to
  int64_t rows;
  int64_t width;
  DType y_dtype;
};

namespace cpu {
void embedding_forward(const EmbeddingForwardArgs& args);
void embedding_backward(const EmbeddingBackwardArgs& args);
}  // namespace cpu
namespace cuda {
void embedding_forward(const EmbeddingForwardArgs& args);
void embedding_backward(const EmbeddingBackwardArgs& args);
}  // namespace cuda

}  // namespace t6
