// GPT-2's printable words for tokens: one character stands for each byte, in the JSON and text forms of a tokenizer.
//
// Latin-1's visible characters stand for themselves, the 68 other bytes for U+0100 upwards in order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace t6::data {

inline constexpr bool byte_is_visible(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
}

// [code point]: the byte it stands for, -1 for none.
inline constexpr std::array<int, 0x144> kByteOfCharacter = [] {
  std::array<int, 0x144> byte_of{};
  byte_of.fill(-1);
  size_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) byte_of[byte_is_visible(byte) ? static_cast<size_t>(byte) : next++] = byte;
  return byte_of;
}();

// The word of a token's bytes, in UTF-8.
inline std::string word_of_bytes(std::string_view bytes) {
  static constexpr std::array<uint16_t, 256> kCharacterOfByte = [] {
    std::array<uint16_t, 256> character_of{};
    for (size_t point = 0; point < kByteOfCharacter.size(); ++point) {
      if (kByteOfCharacter[point] >= 0) {
        character_of[static_cast<size_t>(kByteOfCharacter[point])] = static_cast<uint16_t>(point);
      }
    }
    return character_of;
  }();
  std::string word;
  for (const char c : bytes) {
    const uint16_t point = kCharacterOfByte[static_cast<uint8_t>(c)];
    if (point < 0x80) {
      word.push_back(static_cast<char>(point));
    } else {  // all are below U+0800
      word.push_back(static_cast<char>(0xC0 | point >> 6));
      word.push_back(static_cast<char>(0x80 | (point & 0x3F)));
    }
  }
  return word;
}

}  // namespace t6::data
