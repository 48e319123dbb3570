// How fast a tokenizer encodes on one core: what `t6 bench tokenizer` prints.
#pragma once

#include <cstdint>
#include <string_view>

#include "data/tokenizer.h"

namespace t6::data {

struct TokenizerBench {
  uint64_t bytes = 0;             // of the text
  uint64_t tokens = 0;            // it becomes
  int passes = 0;                 // measured, after one that warms the word cache
  double mb_per_second = 0;       // 10^6 bytes a second, the best pass
  double cold_mb_per_second = 0;  // the first pass, its caches empty
  double bytes_per_token = 0;
};

// Encodes `text` as one document in whole passes for at least `seconds`, on the calling thread. Error(usage) when it is
// empty.
TokenizerBench bench_tokenizer(const Tokenizer& tokenizer, std::string_view text, double seconds = 1.0);

}  // namespace t6::data
