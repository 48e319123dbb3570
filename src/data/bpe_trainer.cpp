#include "data/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "data/pretokenizer.h"

namespace t6::data {
namespace {

constexpr uint32_t kBoundary = 0xFFFFFFFF;  // id between two pieces, and of a position joined to its left neighbour

using PairKey = uint64_t;  // left id << 32 | right id
constexpr PairKey pair_key(uint32_t left, uint32_t right) {
  return uint64_t{left} << 32 | right;
}

struct PairUse {
  uint64_t count = 0;
  std::vector<uint32_t> positions;  // of the left token; those where the pair is gone are dropped when it is merged
};

struct PairKeyHash {
  size_t operator()(PairKey key) const {
    key *= 0x9E3779B97F4A7C15;
    return key ^ key >> 32;
  }
};

// A pair to merge with the count it had when entered. Counts of pairs without the newest token only fall, so a stale
// entry is never too low: popped, it is entered again with its count of now.
struct Candidate {
  uint64_t count;
  PairKey pair;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

// Every distinct piece once, byte after byte, with a boundary before the first and after each; a linked list over the
// positions whose tokens are left. A token's position is that of its first byte.
class Merger {
 public:
  Merger(size_t positions, uint64_t min_pair_count) : min_pair_count_(min_pair_count) {
    id_.reserve(positions);
    piece_of_.reserve(positions);
    id_.push_back(kBoundary);
    piece_of_.push_back(0);
  }

  void add_piece(std::string_view piece, uint64_t count) {
    const auto index = static_cast<uint32_t>(piece_counts_.size());
    piece_counts_.push_back(count);
    for (const char byte : piece) {
      id_.push_back(static_cast<uint8_t>(byte));
      piece_of_.push_back(index);
    }
    id_.push_back(kBoundary);
    piece_of_.push_back(index);
  }

  void start() {
    next_.resize(id_.size());
    previous_.resize(id_.size());
    for (uint32_t p = 0; p < id_.size(); ++p) {
      next_[p] = p + 1;
      previous_[p] = p - 1;
      if (id_[p] != kBoundary && id_[p + 1] != kBoundary) count_in(p, id_[p], id_[p + 1]);
    }
    for (const auto& [pair, use] : pairs_) enter(pair, use.count);
  }

  // The pair to merge next and its token's length at most max_bytes; false when none is left.
  bool best(std::span<const std::string> tokens, size_t max_bytes, PairKey& pair) {
    while (!heap_.empty()) {
      const Candidate candidate = heap_.top();
      heap_.pop();
      const uint64_t count = pairs_.at(candidate.pair).count;
      if (count != candidate.count) {
        enter(candidate.pair, count);
        continue;
      }
      if (tokens[candidate.pair >> 32].size() + tokens[static_cast<uint32_t>(candidate.pair)].size() > max_bytes)
        continue;
      pair = candidate.pair;
      return true;
    }
    return false;
  }

  // Joins every occurrence of the pair into `token`, the newest id, from left to right in each piece.
  void merge(PairKey pair, uint32_t token) {
    const auto left = static_cast<uint32_t>(pair >> 32);
    const auto right = static_cast<uint32_t>(pair);
    std::vector<uint32_t> positions = std::move(pairs_.at(pair).positions);
    std::sort(positions.begin(), positions.end());
    created_.clear();
    for (const uint32_t p : positions) {
      const uint32_t q = next_[p];
      if (id_[p] != left || id_[q] != right) continue;
      const uint32_t before = previous_[p];
      const uint32_t after = next_[q];
      if (id_[before] != kBoundary) {
        count_out(p, id_[before], left);
        count_in(before, id_[before], token);
        created_.push_back(pair_key(id_[before], token));
      }
      if (id_[after] != kBoundary) {
        count_out(p, right, id_[after]);
        count_in(p, token, id_[after]);
        created_.push_back(pair_key(token, id_[after]));
      }
      id_[p] = token;
      id_[q] = kBoundary;
      next_[p] = after;
      previous_[after] = p;
    }
    pairs_.erase(pair);
    std::sort(created_.begin(), created_.end());
    created_.erase(std::unique(created_.begin(), created_.end()), created_.end());
    for (const PairKey key : created_) enter(key, pairs_.at(key).count);
  }

 private:
  void count_in(uint32_t position, uint32_t left, uint32_t right) {
    PairUse& use = pairs_[pair_key(left, right)];
    use.count += piece_counts_[piece_of_[position]];
    use.positions.push_back(position);
  }
  void count_out(uint32_t position, uint32_t left, uint32_t right) {
    pairs_.at(pair_key(left, right)).count -= piece_counts_[piece_of_[position]];
  }
  void enter(PairKey pair, uint64_t count) {
    if (count >= min_pair_count_) {
      heap_.push({count, pair});
    } else {
      pairs_.at(pair).positions = {};  // never merged: its count does not rise again
    }
  }

  uint64_t min_pair_count_;
  std::vector<uint32_t> id_, piece_of_, next_, previous_;  // [positions]
  std::vector<uint64_t> piece_counts_;
  std::unordered_map<PairKey, PairUse, PairKeyHash> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<PairKey> created_;
};

}  // namespace

void BpeTrainer::add(std::string_view document) {
  bytes_ += document.size();
  for_each_piece(document, [this](std::string_view piece) {
    const auto found = piece_counts_.find(piece);
    if (found != piece_counts_.end()) {
      ++found->second;
    } else {
      piece_counts_.emplace(piece, 1);
    }
  });
}

Tokenizer BpeTrainer::train(const BpeTrainerOptions& options) const {
  if (options.vocab_size < kMinVocabSize || options.vocab_size > kMaxVocabSize) {
    fail(ExitCode::usage, "vocab_size: expected {} (256 bytes and end-of-text) to {}, got {}", kMinVocabSize,
         kMaxVocabSize, options.vocab_size);
  }
  if (piece_counts_.empty()) fail(ExitCode::data, "no text to learn a tokenizer from: every document was empty");
  uint64_t positions = 1;
  for (const auto& [piece, count] : piece_counts_) positions += piece.size() + 1;
  if (positions >= kBoundary) {
    fail(ExitCode::data,
         "the text's {} distinct pieces are {} bytes together, more than a tokenizer can be learnt from ({}); "
         "learn it from a sample of the text",
         piece_counts_.size(), positions, kBoundary);
  }
  Merger merger(positions, std::max<uint64_t>(options.min_pair_count, 1));
  for (const auto& [piece, count] : piece_counts_) merger.add_piece(piece, count);
  merger.start();

  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  const uint32_t total = options.vocab_size - kMinVocabSize;
  const auto report = [&](uint32_t learnt) {
    if (options.progress) options.progress(learnt, total);
  };
  report(0);
  for (uint32_t learnt = 0; learnt < total;) {
    PairKey pair = 0;
    if (!merger.best(tokens, Tokenizer::kMaxTokenBytes, pair)) {
      fail(ExitCode::data,
           "vocab_size: this text ({} bytes, {} distinct pieces) supports at most {} ids, expected {}: no pair of "
           "tokens is left "
           "that occurs {} times or more; use more text or a smaller vocabulary (--vocab)",
           bytes_, piece_counts_.size(), kMinVocabSize + learnt, options.vocab_size,
           std::max<uint64_t>(options.min_pair_count, 1));
    }
    merger.merge(pair, static_cast<uint32_t>(tokens.size()));
    tokens.push_back(tokens[pair >> 32] + tokens[static_cast<uint32_t>(pair)]);
    if (++learnt % 256 == 0 || learnt == total) report(learnt);
  }
  return Tokenizer::from_tokens(tokens, "learnt tokenizer");
}

}  // namespace t6::data
