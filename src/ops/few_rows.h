// Products of a few rows with a matrix: what decoding makes of every weight. The time is that of reading the matrix, so
// it is read once, in the order of memory, and nothing is copied or packed: a weight [out, in] lies as it is needed.
#pragma once

#include "ops/matmul.h"

namespace t6::cpu {

// Rows up to which it is worth it: more rows cost arithmetic, and oneDNN's kernels win.
inline constexpr int64_t kFewRows = 4;

// Whether matmul_few_rows() computes this product: at most kFewRows rows of f32 or bf16, A not transposed, nothing
// added to.
bool takes_few_rows(const MatmulArgs& args);

// Sums in f32. The sum behind an element of C does not depend on the other rows, the thread count or the processor's
// load: a sequence decodes to the same bits alone and among up to kFewRows. Inside a parallel region on the calling
// thread.
void matmul_few_rows(const MatmulArgs& args);

}  // namespace t6::cpu
