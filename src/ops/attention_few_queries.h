// Attention of a few queries against many keys on the CPU: decoding. The time is that of reading the keys and values,
// so each is read once, for all heads that share it and in the order of memory.
//
// The keys are cut into splits, whose sums are brought to one maximum at the end (split_softmax.h).
#pragma once

#include "ops/attention.h"

namespace t6::cpu {

// Queries of a sequence up to which reading the keys costs most.
inline constexpr int64_t kFewQueries = 8;

// attention() for queries <= kFewQueries. Unchecked, as that.
void attention_few_queries(const AttentionArgs& args);

}  // namespace t6::cpu
