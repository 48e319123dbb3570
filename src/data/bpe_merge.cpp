#include "data/bpe_merge.h"

#include <algorithm>
#include <functional>
#include <queue>

#include "base/error.h"

namespace t6::data {
namespace {

// Rank of the token that is bytes [begin, end) of the piece, or kNone.
inline uint32_t rank_of(const Tokenizer& tokenizer, std::string_view piece, size_t begin, size_t end) {
  if (end - begin > tokenizer.max_token_bytes()) return Tokenizer::kNone;
  return tokenizer.find(piece.substr(begin, end - begin));
}

inline uint32_t byte_pair(const Tokenizer& tokenizer, std::string_view piece, size_t begin) {
  return tokenizer.byte_pair_rank(static_cast<uint8_t>(piece[begin]), static_cast<uint8_t>(piece[begin + 1]));
}

}  // namespace

void merge_by_scan(const Tokenizer& tokenizer, std::string_view piece, std::vector<uint32_t>& ids) {
  struct Part {
    uint32_t begin;
    uint32_t rank;  // of this part joined with the next, or kNone
    uint32_t id;
  };
  Part few[kScanMergeBytes + 1];
  std::vector<Part> many;
  Part* part = few;
  if (piece.size() > kScanMergeBytes) {
    many.resize(piece.size() + 1);
    part = many.data();
  }
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) {
    part[i] = {static_cast<uint32_t>(i), i + 1 < count ? byte_pair(tokenizer, piece, i) : Tokenizer::kNone,
               tokenizer.byte_rank(static_cast<uint8_t>(piece[i]))};
  }
  part[count] = {static_cast<uint32_t>(count), Tokenizer::kNone, Tokenizer::kNone};
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) best = part[i].rank < part[best].rank ? i : best;
    if (part[best].rank == Tokenizer::kNone) break;
    part[best].id = part[best].rank;
    for (size_t i = best + 1; i < count; ++i) part[i] = part[i + 1];
    --count;
    const auto joined = [&](size_t i) {
      return i + 1 < count ? rank_of(tokenizer, piece, part[i].begin, part[i + 2].begin) : Tokenizer::kNone;
    };
    part[best].rank = joined(best);
    if (best > 0) part[best - 1].rank = joined(best - 1);
  }
  for (size_t i = 0; i < count; ++i) ids.push_back(part[i].id);
}

void merge_by_heap(const Tokenizer& tokenizer, std::string_view piece, std::vector<uint32_t>& ids) {
  const auto size = static_cast<uint32_t>(piece.size());
  // Parts are named by the position of their first byte. rank[p] is that of part p joined with the next, kNone also for
  // a position inside a part, so a heap entry holds as long as it equals rank[p]: a part only grows, no rank comes
  // back.
  std::vector<uint32_t> next(size), previous(size), rank(size), id(size);
  std::vector<uint64_t> entries;
  entries.reserve(size);
  for (uint32_t p = 0; p < size; ++p) {
    next[p] = p + 1;
    previous[p] = p - 1;
    id[p] = tokenizer.byte_rank(static_cast<uint8_t>(piece[p]));
    rank[p] = p + 1 < size ? byte_pair(tokenizer, piece, p) : Tokenizer::kNone;
    if (rank[p] != Tokenizer::kNone) entries.push_back(uint64_t{rank[p]} << 32 | p);
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap(std::greater<>(), std::move(entries));
  const auto refresh = [&](uint32_t p) {
    const uint32_t after = next[p];
    rank[p] = after < size ? rank_of(tokenizer, piece, p, next[after]) : Tokenizer::kNone;
    if (rank[p] != Tokenizer::kNone) heap.push(uint64_t{rank[p]} << 32 | p);
  };
  while (!heap.empty()) {
    const uint64_t entry = heap.top();
    heap.pop();
    const auto p = static_cast<uint32_t>(entry);
    if (rank[p] != static_cast<uint32_t>(entry >> 32)) continue;
    id[p] = rank[p];
    const uint32_t absorbed = next[p];
    rank[absorbed] = Tokenizer::kNone;
    next[p] = next[absorbed];
    if (next[p] < size) previous[next[p]] = p;
    refresh(p);
    if (p > 0) refresh(previous[p]);
  }
  for (uint32_t p = 0; p < size; p = next[p]) ids.push_back(id[p]);
}

void merge_piece(const Tokenizer& tokenizer, std::string_view piece, std::vector<uint32_t>& ids) {
  if (piece.size() >= Tokenizer::kNone) {
    fail(ExitCode::data, "a run of {} bytes without a word boundary cannot be tokenized (limit {}); cut the document",
         piece.size(), Tokenizer::kNone - 1);
  }
  if (piece.size() <= kScanMergeBytes) {
    merge_by_scan(tokenizer, piece, ids);
  } else {
    merge_by_heap(tokenizer, piece, ids);
  }
}

std::vector<std::string_view> parts_before_merge(const Tokenizer& tokenizer, std::string_view token, uint32_t rank) {
  std::vector<std::string_view> parts;
  std::vector<uint32_t> joined;  // [i]: rank of parts i and i + 1 together, kNone unless below `rank`
  const auto rank_of = [&](size_t i) {
    const uint32_t found = tokenizer.find({parts[i].data(), parts[i].size() + parts[i + 1].size()});
    return found < rank ? found : Tokenizer::kNone;
  };
  for (size_t i = 0; i < token.size(); ++i) parts.push_back(token.substr(i, 1));
  for (size_t i = 0; i + 1 < parts.size(); ++i) joined.push_back(rank_of(i));
  while (!joined.empty()) {
    const auto lowest = std::min_element(joined.begin(), joined.end());
    if (*lowest == Tokenizer::kNone) break;
    const auto i = static_cast<size_t>(lowest - joined.begin());
    parts[i] = {parts[i].data(), parts[i].size() + parts[i + 1].size()};
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(i) + 1);
    joined.erase(lowest);
    if (i > 0) joined[i - 1] = rank_of(i - 1);
    if (i < joined.size()) joined[i] = rank_of(i);
  }
  return parts;
}

}  // namespace t6::data
