// Token ids brought into order on a GPU: a stable radix sort, eight bits a pass.
#pragma once

#include <cstdint>

namespace t6::cuda {

inline constexpr int64_t kTokenTile = 512;  // tokens a block
inline constexpr int64_t kTokenDigits = 256;

// i32 numbers order_tokens() needs.
inline int64_t token_order_scratch(int64_t count) {
  const int64_t tiles = (count + kTokenTile - 1) / kTokenTile;
  return 4 * count + kTokenDigits * (tiles + 1);
}

struct TokenOrder {
  const int32_t* tokens;     // [count] ascending
  const int32_t* positions;  // [count] where each stood; ascending among equal tokens
};

// `tokens` [count], in [0, vocabulary), count in [1, 2^31). The result lies in `scratch`. Runs on the current stream,
// three small kernels a pass.
TokenOrder order_tokens(const int32_t* tokens, int64_t count, int64_t vocabulary, int32_t* scratch);

}  // namespace t6::cuda
