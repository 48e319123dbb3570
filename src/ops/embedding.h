// Token embedding: rows of a table.
//
//   x[i] = table[token[i]],   dtable[token[i]] += dx[i]
#pragma once

#include "autograd/variable.h"
#include "ops/work.h"

namespace t6 {

// table [V, C] (f32, bf16, f64), tokens i32 [shape..] -> [shape.., C] of y_dtype (f32 or bf16 from f32 or bf16; f64
// from f64). The gradient is added into the table's f32 (f64) buffer: on the CPU in the order of the tokens whatever
// the thread count; on CUDA by a tree that the tokens alone fix: sorted by id, tokens are cut into pieces of
// kEmbeddingPiece, those of one id in one piece are added up in order (onto the buffer's row, where the id's first
// piece is), and then the id's pieces in order. Saves tokens. On the CPU a token outside [0, V) is Error(data); on CUDA
// the caller has checked them.
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
inline constexpr int64_t kEmbeddingPiece = 64;

struct EmbeddingBackwardArgs {
  const void* dy;  // [rows, width] of y_dtype
  const int32_t* tokens;
  void* dtable;  // [vocabulary, width] of the accumulate type, added to
  int64_t rows;
  int64_t width;
  int64_t vocabulary;
  DType y_dtype;
  int32_t* order_scratch;  // CUDA: [cuda::token_order_scratch(rows)]
  float* pieces;           // CUDA: [ceil(rows / kEmbeddingPiece), width], scratch
};

// Each row of the table at most once.
inline double bytes_of(const EmbeddingForwardArgs& a) {
  return bytes_of(a.rows, DType::i32) + bytes_of(std::min(a.rows, a.vocabulary) * a.width, a.table_dtype) +
         bytes_of(a.rows * a.width, a.y_dtype);
}
inline double bytes_of(const EmbeddingBackwardArgs& a) {
  return bytes_of(a.rows, DType::i32) + bytes_of(a.rows * a.width, a.y_dtype) +
         bytes_of(2 * std::min(a.rows, a.vocabulary) * a.width, accumulate_dtype(a.y_dtype));
}

namespace cpu {
void embedding_forward(const EmbeddingForwardArgs& args);
void embedding_backward(const EmbeddingBackwardArgs& args);
}  // namespace cpu
namespace cuda {
void embedding_forward(const EmbeddingForwardArgs& args);
void embedding_backward(const EmbeddingBackwardArgs& args);
}  // namespace cuda

}  // namespace t6
