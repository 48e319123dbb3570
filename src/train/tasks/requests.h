// Prompts as tokens, and the sequences a model is run on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "train/tasks/task.h"

namespace t6::train {

struct Encoded {
  std::vector<int32_t> context, continuation;  // neither is empty
};
// As lm-evaluation-harness does: white space at the end of the context goes to the continuation; the whole is encoded
// and cut where the encoded context ends. An empty context is the end-of-text token. Error(data) naming `where` when
// nothing is left of the continuation.
Encoded encode(const data::Tokenizer& tokenizer, const Prompt& prompt, const std::string& where);

// Input of the model, with the tokens that should follow its last positions. Prompts of an item that differ in their
// last token alone share one.
struct Sequence {
  std::vector<int32_t> input;
  std::vector<std::vector<int32_t>> targets;  // each as long as the others, at most as long as the input
  size_t scored() const { return targets.front().size(); }
};

// The sequences of one item, and where in them each of its prompts is.
struct ItemSequences {
  struct Place {
    size_t sequence, target;
  };
  std::vector<Sequence> sequences;
  std::vector<Place> prompts;
};
// Cut on the left to the model's `window`. Error(data) naming `where` when a continuation alone is longer than it.
ItemSequences sequences_of(const std::vector<Encoded>& prompts, int64_t window, const std::string& where);

// Indices of sequences of these lengths in batches, the longest first: as many as have together, padded to the longest
// of them rounded up to `multiple`, at most `tokens` tokens, but one at least. Their lengths alone decide.
std::vector<std::vector<size_t>> batches_of(std::span<const size_t> lengths, size_t tokens, size_t multiple);

}  // namespace t6::train
