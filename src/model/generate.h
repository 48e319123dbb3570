// Text continuation: one token at a time from the decode caches.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/transformer.h"

namespace t6 {

struct SamplingOptions {
  double temperature = 1.0;  // 0: always the likeliest token
  int64_t top_k = 0;         // keep the k likeliest tokens; 0: all
  double top_p = 1.0;        // keep the smallest set of likeliest tokens whose probability reaches p
  uint64_t seed = 0;
};

// A token drawn from `logits` [V] under the options; `draw` numbers the draws of a seed. Only ids below `vocabulary`
// (the tokenizer's size; padded ids are never drawn). Ties go to the lower id.
int32_t sample(std::span<const float> logits, int64_t vocabulary, const SamplingOptions& options, uint64_t draw);

// Continues `prompt` (at least one token) by up to `count` tokens, calling on_token for each; stops after `stop` (< 0:
// never) or when on_token returns false. Beyond the model's context the oldest half of the tokens is dropped and the
// cache rebuilt. Returns the new tokens.
std::vector<int32_t> generate(const Transformer& model, std::span<const int32_t> prompt, int64_t count,
                              int64_t vocabulary, int32_t stop, const SamplingOptions& options,
                              const std::function<bool(int32_t)>& on_token);

}  // namespace t6
