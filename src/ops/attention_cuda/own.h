// This project's own attention kernels for CUDA; see ../attention.h for the contract. f32 and bf16, heads of up to 256
// numbers. No atomic additions: the same inputs give the same bits.
#pragma once

#include "ops/attention.h"

namespace t6::cuda::own {

void attention(const AttentionArgs& args);
void attention_backward(const AttentionBackwardArgs& args);

}  // namespace t6::cuda::own
