#include "base/utf8.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace t6::utf8 {
namespace {

std::string encode(uint32_t c) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
}

TEST(Utf8, EveryCharacterAndEveryCutOne) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    const std::string text = encode(c);
    const bool surrogate = c >= 0xD800 && c < 0xE000;
    const Char got = first(text + "x");
    ASSERT_EQ(got.bytes, surrogate ? kBad : static_cast<int>(text.size())) << c;
    ASSERT_EQ(got.code_point, surrogate ? 0 : c);
    for (size_t part = 1; part < text.size(); ++part) {
      // A surrogate is told by its second byte.
      ASSERT_EQ(first(std::string_view(text).substr(0, part)).bytes, surrogate && part > 1 ? kBad : kCut) << c;
      ASSERT_EQ(first(text.substr(0, part) + "x").bytes, kBad) << c;
    }
  }
}

// All sequences of three bytes: those that begin with a character are as many as there are such characters.
TEST(Utf8, NothingElseIsACharacter) {
  std::map<int, int64_t> counts;
  for (uint32_t bits = 0; bits < 1u << 24; ++bits) {
    const char bytes[] = {static_cast<char>(bits >> 16), static_cast<char>(bits >> 8), static_cast<char>(bits)};
    ++counts[first(bytes, bytes + 3).bytes];
  }
  EXPECT_EQ(counts[1], 0x80 << 16);
  EXPECT_EQ(counts[2], (0x800 - 0x80) << 8);
  EXPECT_EQ(counts[3], 0x10000 - 0x800 - 0x800);
  EXPECT_EQ(counts[kCut], 0x100000 >> 6);
  for (const char* bad : {"\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xF0\x8F\xBF\xBF", "\xFF", "\xC0\x80", "\xC1\xBF"}) {
    EXPECT_EQ(first(bad).bytes, kBad);
  }
}

}  // namespace
}  // namespace t6::utf8
