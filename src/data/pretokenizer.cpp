#include "data/pretokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <vector>

#include "base/utf8.h"

namespace t6::data {
namespace {

constexpr uint32_t kRuns[] = {
#include "data/unicode_classes.inc"
};

// Two stages: code point / 256 -> page, page and low byte -> class. Equal pages are stored once (about 40 KB in all).
struct ClassTable {
  std::array<uint16_t, 0x110000 / 256> page_of{};
  std::vector<std::array<CharClass, 256>> pages;

  ClassTable() {
    size_t run = 0;
    for (size_t page = 0; page < page_of.size(); ++page) {
      std::array<CharClass, 256> classes;
      for (size_t low = 0; low < 256; ++low) {
        const uint32_t code_point = static_cast<uint32_t>(page * 256 + low);
        while (run + 1 < std::size(kRuns) && kRuns[run + 1] >> 2 <= code_point) ++run;
        classes[low] = static_cast<CharClass>(kRuns[run] & 3);
      }
      const auto same = std::find(pages.begin(), pages.end(), classes);
      page_of[page] = static_cast<uint16_t>(same - pages.begin());
      if (same == pages.end()) pages.push_back(classes);
    }
  }
  CharClass operator()(uint32_t code_point) const { return pages[page_of[code_point >> 8]][code_point & 255]; }
};

const ClassTable kClasses;

struct Char {
  CharClass kind;
  uint32_t bytes;
};

constexpr std::array<CharClass, 128> kAscii = [] {
  std::array<CharClass, 128> classes{};
  for (int c = 'a'; c <= 'z'; ++c) classes[static_cast<size_t>(c)] = CharClass::letter;
  for (int c = 'A'; c <= 'Z'; ++c) classes[static_cast<size_t>(c)] = CharClass::letter;
  for (int c = '0'; c <= '9'; ++c) classes[static_cast<size_t>(c)] = CharClass::number;
  for (int c = '\t'; c <= '\r'; ++c) classes[static_cast<size_t>(c)] = CharClass::space;
  classes[' '] = CharClass::space;
  return classes;
}();

// The character at p < end; an ill-formed byte is (other, 1).
inline Char decode(const char* p, const char* end) {
  const auto lead = static_cast<uint8_t>(*p);
  if (lead < 0x80) return {kAscii[lead], 1};
  const utf8::Char c = utf8::first(p, end);
  if (c.bytes <= 0) return {CharClass::other, 1};
  return {kClasses(c.code_point), static_cast<uint32_t>(c.bytes)};
}

constexpr uint64_t kLow7 = 0x7F7F7F7F7F7F7F7F;
constexpr uint64_t kHigh = 0x8080808080808080;

constexpr uint64_t repeat(uint8_t byte) {
  return uint64_t{byte} * 0x0101010101010101;
}

// High bit set in each byte of x that is an ASCII letter.
inline uint64_t letter_bits(uint64_t x) {
  const uint64_t lower = (x | repeat(0x20)) & kLow7;
  return (lower + repeat(0x80 - 'a')) & ~(lower + repeat(0x80 - 'z' - 1)) & ~x & kHigh;
}

// End of the run of characters of `kind` from p.
const char* run_end(const char* p, const char* end, CharClass kind) {
  if (kind == CharClass::letter && std::endian::native == std::endian::little) {
    while (end - p >= 8) {
      uint64_t x;
      std::memcpy(&x, p, 8);
      const uint64_t stop = ~letter_bits(x) & kHigh;
      if (stop == 0) {
        p += 8;
        continue;
      }
      p += std::countr_zero(stop) >> 3;
      if (static_cast<uint8_t>(*p) < 0x80) return p;
      break;
    }
  }
  while (p != end) {
    const Char c = decode(p, end);
    if (c.kind != kind) break;
    p += c.bytes;
  }
  return p;
}

// Bytes of the contraction whose apostrophe is at p, or 0.
inline size_t contraction_bytes(const char* p, const char* end) {
  if (end - p < 2) return 0;
  const char a = p[1];
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (end - p < 3) return 0;
  const char b = p[2];
  return (a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e') ? 3 : 0;
}

// The white-space alternatives: all of a run at the document's end, else all but its last character, which stays for
// the next piece unless it is the only one.
const char* space_end(const char* begin, const char* end) {
  const char* last = begin;
  const char* p = begin;
  while (p != end) {
    const Char c = decode(p, end);
    if (c.kind != CharClass::space) return last == begin ? p : last;
    last = p;
    p += c.bytes;
  }
  return end;
}

}  // namespace

CharClass char_class(uint32_t code_point) {
  return kClasses(code_point);
}

const char* piece_end(const char* begin, const char* end) {
  if (*begin == '\'') {
    if (const size_t bytes = contraction_bytes(begin, end)) return begin + bytes;
  }
  const char* p = begin + (*begin == ' ' && end - begin > 1);
  const Char c = decode(p, end);
  if (c.kind == CharClass::space) return space_end(begin, end);
  return run_end(p + c.bytes, end, c.kind);
}

}  // namespace t6::data
