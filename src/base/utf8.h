// UTF-8, one character at a time. Well-formed is what Unicode says: no overlong form, no surrogate, nothing beyond
// U+10FFFF.
#pragma once

#include <cstdint>
#include <string_view>

namespace t6::utf8 {

struct Char {
  uint32_t code_point;  // of a well-formed character
  int bytes;            // 1 to 4; kCut or kBad
};
inline constexpr int kCut = 0;   // the text ends within what may become a character
inline constexpr int kBad = -1;  // no character begins like this

// The character at p < end.
inline Char first(const char* p, const char* end) {
  const auto byte = [p](int i) { return uint32_t{static_cast<uint8_t>(p[i])}; };
  const auto left = end - p;
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xC2 || lead > 0xF4) return {0, kBad};
  if (left < 2) return {0, kCut};
  // The second byte rules out overlong forms, surrogates and what lies beyond U+10FFFF.
  const uint32_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint32_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return {0, kBad};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (left < 3) return {0, kCut};
  if ((byte(2) & 0xC0) != 0x80) return {0, kBad};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  if (left < 4) return {0, kCut};
  if ((byte(3) & 0xC0) != 0x80) return {0, kBad};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}
// Of a text that is not empty.
inline Char first(std::string_view text) {
  return first(text.data(), text.data() + text.size());
}

}  // namespace t6::utf8
