// Sums over ranks in an order that the world size does not change.
//
// Ranks are the leaves of a binary tree: (0 1) (2 3), then pairs of pairs. Where each leaf is itself a balanced tree
// (train/step.h sums micro-batches so), 1, 2, 4, ... ranks give the same bits. On other world sizes the order is fixed,
// but another.
#pragma once

#include "dist/communicator.h"

namespace t6::dist {

// x := its sum over ranks, the same bits on all of them. Slower than all_reduce(): log2(world) exchanges of all of x.
// The result is there for what is asked for next. Scratch memory: at most kTreeScratch bytes.
inline constexpr int64_t kTreeScratch = int64_t{32} << 20;
void tree_all_reduce(Communicator& communicator, const Tensor& x);

}  // namespace t6::dist
