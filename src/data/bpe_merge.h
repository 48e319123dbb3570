// The merge loop of byte-pair encoding for one piece, exact and never quadratic in a long piece.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace t6::data {

// Appends the ids of one piece that is not itself a token (1 <= size < 2^32 - 1, else Error(data)). Up to
// kScanMergeBytes bytes the lowest pair is found by scanning; above, by a heap over a linked list: O(n log n) time,
// about 40 bytes of memory a byte.
void merge_piece(const Tokenizer& tokenizer, std::string_view piece, std::vector<uint32_t>& ids);

inline constexpr size_t kScanMergeBytes = 128;

// The two ways by themselves, for any length: same ids.
void merge_by_scan(const Tokenizer& tokenizer, std::string_view piece, std::vector<uint32_t>& ids);
void merge_by_heap(const Tokenizer& tokenizer, std::string_view piece, std::vector<uint32_t>& ids);

// The parts of a token's bytes that merges of ranks below `rank` leave: two for a token that its merge made.
std::vector<std::string_view> parts_before_merge(const Tokenizer& tokenizer, std::string_view token, uint32_t rank);

}  // namespace t6::data
