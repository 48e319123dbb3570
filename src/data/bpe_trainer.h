// Learns a byte-level BPE vocabulary from text, with the same pre-tokenizer that encodes it.
//
// The learnt tokenizer has ranks 0..255 for the single bytes in order, then one rank a merge in the order learnt, then
// the end-of-text id. Each merge joins the most frequent adjacent pair of tokens inside pieces (an occurrence counts
// once for every time its piece is in the text, overlapping ones included); among equally frequent pairs the one with
// the smaller left id, then the smaller right id. The result is a function of the multiset of pieces alone: neither the
// order of documents nor the machine matters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "data/tokenizer.h"

namespace t6::data {

struct BpeTrainerOptions {
  uint32_t vocab_size = 0;      // ids in all: 256 bytes, the merges, end-of-text; 257 to kMaxVocabSize
  uint64_t min_pair_count = 2;  // rarer pairs are not merged
  // Called with the merges learnt and asked for, first with 0, now and then, and at the end.
  std::function<void(uint32_t learnt, uint32_t total)> progress;
};

class BpeTrainer {
 public:
  static constexpr uint32_t kMinVocabSize = 257;
  static constexpr uint32_t kMaxVocabSize = 1'000'000;

  // Counts the pieces of one whole document. Memory grows with the distinct pieces met.
  void add(std::string_view document);

  uint64_t bytes() const { return bytes_; }                        // of text added
  size_t distinct_pieces() const { return piece_counts_.size(); }  // in it

  // Error(usage) for a vocab_size out of range; Error(data) when no text was added, or when it has too few pairs for
  // that vocabulary (the message says how many ids it can have) or too many distinct pieces (4 GB together).
  Tokenizer train(const BpeTrainerOptions& options) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, uint64_t, Hash, std::equal_to<>> piece_counts_;
  uint64_t bytes_ = 0;
};

}  // namespace t6::data
