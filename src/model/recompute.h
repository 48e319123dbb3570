// Which activations a training step computes again instead of keeping.
#pragma once

#include <cstdint>

namespace t6 {

// none: all are kept; qkv: queries, keys and values that come of factors are made again of them (kinds without factors
// keep all); attention: what is inside each attention branch is computed again; block: a whole block is, and
// only the residual stream between blocks is kept. Losses and gradients are the same.
enum class Recompute : uint8_t { none, qkv, attention, block };

}  // namespace t6
