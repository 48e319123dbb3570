#include "data/unigram.h"

#include <algorithm>
#include <cmath>

namespace t6::data {

void UnigramCounts::add(std::span<const uint32_t> ids) {
  if (ids.empty()) return;
  const uint32_t highest = *std::max_element(ids.begin(), ids.end());
  if (highest >= counts_.size()) counts_.resize(size_t{highest} + 1);
  for (const uint32_t id : ids) ++counts_[id];
  total_ += ids.size();
}

void UnigramCounts::add(const TokenShard& shard, const std::function<void(uint64_t)>& progress) {
  constexpr uint64_t kPiece = uint64_t{1} << 20;
  std::vector<uint32_t> ids(std::min(kPiece, shard.size()));
  for (uint64_t at = 0; at < shard.size();) {
    const std::span<uint32_t> piece = std::span(ids).first(std::min(kPiece, shard.size() - at));
    shard.read(piece, at);
    add(piece);
    at += piece.size();
    if (progress) progress(piece.size());
  }
}

void UnigramCounts::add(const UnigramCounts& other) {
  counts_.resize(std::max(counts_.size(), other.counts_.size()));
  for (size_t id = 0; id < other.counts_.size(); ++id) counts_[id] += other.counts_[id];
  total_ += other.total_;
}

uint64_t UnigramCounts::distinct() const {
  return static_cast<uint64_t>(std::count_if(counts_.begin(), counts_.end(), [](uint64_t n) { return n > 0; }));
}

uint32_t UnigramCounts::highest() const {
  for (size_t id = counts_.size(); id-- > 0;) {
    if (counts_[id] > 0) return static_cast<uint32_t>(id);
  }
  return 0;
}

double UnigramCounts::entropy() const {
  if (total_ == 0) return 0;
  const auto total = static_cast<double>(total_);
  double sum = 0;
  for (const uint64_t n : counts_) {
    if (n > 0) sum += static_cast<double>(n) * std::log(total / static_cast<double>(n));
  }
  return sum / total;
}

}  // namespace t6::data
