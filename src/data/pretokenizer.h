// GPT-2's pre-tokenizer: cuts a document into the pieces that byte-pair merges never cross.
//
// The pattern is `'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s` as tiktoken runs it:
// \s is the property White_Space, $ the end of the document, categories from Unicode 16.0. Pieces are never empty and
// cover every byte.
//
// Any bytes are accepted. A byte that is not part of a well-formed UTF-8 sequence (stray or missing continuation,
// overlong form, surrogate, above U+10FFFF) counts by itself as one character that is neither space, letter nor number,
// as U+FFFD would in its place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace t6::data {

enum class CharClass : uint8_t { other = 0, letter = 1, number = 2, space = 3 };

// Class of a code point below 0x110000.
CharClass char_class(uint32_t code_point);

// End of the piece that starts at `begin`, begin < end. `end` must be the end of the document: the look-ahead needs it.
const char* piece_end(const char* begin, const char* end);

// Calls visit(std::string_view piece) for each piece of the document, in order.
template <class Visit>
void for_each_piece(std::string_view document, Visit&& visit) {
  const char* p = document.data();
  const char* const end = p + document.size();
  while (p != end) {
    const char* const next = piece_end(p, end);
    visit(std::string_view(p, static_cast<size_t>(next - p)));
    p = next;
  }
}

}  // namespace t6::data
