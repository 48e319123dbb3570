// Which activations a training step computes again instead of keeping.
#pragma once

#include <cstdint>

namespace t6 {

// none: all are kept; attention: what is inside each attention branch is computed again; block: a whole block is, and
// only the residual stream between blocks is kept. Losses and gradients are the same.
enum class Recompute : uint8_t { none, attention, block };

}  // namespace t6
