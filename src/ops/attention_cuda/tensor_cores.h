// Attention on tensor cores: the bf16 half of the own kernels (own.h).
#pragma once

#include "ops/attention.h"

namespace t6::cuda::tensor_cores {

// bf16 whose rows are multiples of 16 bytes, heads of up to 128 numbers.
bool takes(const AttentionArgs& args);
bool takes(const AttentionBackwardArgs& args);

void attention(const AttentionArgs& args);
// dq, dk and dv; delta [batch, heads, queries] holds do[t] . o[t].
void attention_backward(const AttentionBackwardArgs& args, const float* delta);

}  // namespace t6::cuda::tensor_cores
