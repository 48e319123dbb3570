// How often each token occurs in shards, and the entropy of that: what a model that knows nothing but these frequencies
// would lose.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "data/shard.h"

namespace t6::data {

class UnigramCounts {
 public:
  void add(std::span<const uint32_t> ids);
  // Reads every token of a shard, which checks every id; `progress` is told the tokens of each piece read. Error(data)
  // as TokenShard::read.
  void add(const TokenShard& shard, const std::function<void(uint64_t)>& progress = {});
  void add(const UnigramCounts& other);

  uint64_t total() const { return total_; }
  uint64_t distinct() const;  // ids that occur
  uint32_t highest() const;   // highest id that occurs; 0 when none does
  uint64_t count(uint32_t id) const { return id < counts_.size() ? counts_[id] : 0; }

  // -sum p ln p with p = count / total, in nats a token; 0 when there are no tokens. The lowest mean loss over these
  // tokens that any prediction without context can reach.
  double entropy() const;

 private:
  std::vector<uint64_t> counts_;  // by id, up to the highest seen
  uint64_t total_ = 0;
};

}  // namespace t6::data
