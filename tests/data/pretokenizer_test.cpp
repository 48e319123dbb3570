#include "data/pretokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "data/tokenizer_fixture.h"

namespace t6::data {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces_of(std::string_view text) {
  Pieces pieces;
  for_each_piece(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

// PCRE2 with a pattern; the text must be valid UTF-8.
class Oracle {
 public:
  explicit Oracle(const char* pattern) {
    int error = 0;
    size_t offset = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &offset, nullptr);
    EXPECT_NE(code_, nullptr) << pattern;
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
    match_ = pcre2_match_data_create_from_pattern(code_, nullptr);
  }
  ~Oracle() {
    pcre2_match_data_free(match_);
    pcre2_code_free(code_);
  }
  Oracle(const Oracle&) = delete;
  Oracle& operator=(const Oracle&) = delete;

  Pieces all(std::string_view text) const {
    Pieces pieces;
    size_t at = 0;
    while (at < text.size() && pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                           PCRE2_NO_UTF_CHECK, match_, nullptr) >= 0) {
      const size_t* range = pcre2_get_ovector_pointer(match_);
      pieces.emplace_back(text.substr(range[0], range[1] - range[0]));
      at = range[1];
    }
    return pieces;
  }

 private:
  pcre2_code* code_;
  pcre2_match_data* match_;
};

constexpr const char* kPattern = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s)";

std::string utf8(uint32_t c) {
  const auto byte = [](uint32_t value) { return static_cast<char>(value); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 | c >> 6), byte(0x80 | (c & 63))};
  if (c < 0x10000) return {byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
  return {byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 63)), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
}

bool is_surrogate(uint32_t c) {
  return c >= 0xD800 && c < 0xE000;
}

// PCRE2's class of every code point, by its own \p{L}, \p{N} and \s, and whether it knows the character at all.
struct OracleClasses {
  std::vector<CharClass> kind = std::vector<CharClass>(0x110000, CharClass::other);
  std::vector<bool> assigned = std::vector<bool>(0x110000, true);

  OracleClasses() {
    std::string every;
    for (uint32_t c = 0; c < 0x110000; ++c) {
      if (!is_surrogate(c)) every += utf8(c);
    }
    const auto each = [&](const char* pattern, auto&& visit) {
      for (const std::string& match : Oracle(pattern).all(every)) visit(code_point(match));
    };
    each(R"(\p{L})", [&](uint32_t c) { kind[c] = CharClass::letter; });
    each(R"(\p{N})", [&](uint32_t c) { kind[c] = CharClass::number; });
    each(R"(\s)", [&](uint32_t c) { kind[c] = CharClass::space; });
    each(R"(\p{Cn})", [&](uint32_t c) { assigned[c] = false; });
  }

  static uint32_t code_point(const std::string& text) {
    const auto lead = static_cast<uint8_t>(text[0]);
    uint32_t c = text.size() == 1 ? lead : lead & (0x7Fu >> text.size());
    for (size_t i = 1; i < text.size(); ++i) c = c << 6 | (static_cast<uint8_t>(text[i]) & 63);
    return c;
  }
};

const OracleClasses& oracle_classes() {
  static const OracleClasses classes;
  return classes;
}

TEST(Pretokenizer, CutsAsThePatternDoes) {
  EXPECT_EQ(pieces_of(""), Pieces{});
  EXPECT_EQ(pieces_of("I've 2nd  it's 'tis\n\n x\t\ty  "),
            (Pieces{"I", "'ve", " 2", "nd", " ", " it", "'s", " '", "tis", "\n\n", " x", "\t", "\t", "y", "  "}));
  EXPECT_EQ(pieces_of("'LL'll'l'"), (Pieces{"'", "LL", "'ll", "'", "l", "'"}));
  EXPECT_EQ(pieces_of(" \n"), (Pieces{" \n"}));
  EXPECT_EQ(pieces_of(" "), (Pieces{" "}));
  EXPECT_EQ(pieces_of("\u00A0\u00A0a"), (Pieces{"\u00A0", "\u00A0", "a"}));
  EXPECT_EQ(pieces_of("naïve½x, ١٢"), (Pieces{"naïve", "½", "x", ",", " ١٢"}));
}

TEST(Pretokenizer, ClassesAreThoseOfPcre2ForAllItKnows) {
  const OracleClasses& oracle = oracle_classes();
  size_t newer = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (is_surrogate(c) || char_class(c) == oracle.kind[c]) continue;
    if (c == 0x180E) {
      EXPECT_EQ(char_class(c), CharClass::other);  // no White_Space since Unicode 6.3; PCRE2's \s keeps it
      continue;
    }
    EXPECT_FALSE(oracle.assigned[c]) << "U+" << std::hex << c;
    ++newer;
  }
  EXPECT_LT(newer, 30000u);
}

TEST(Pretokenizer, MatchesPcre2OnAsciiFuzz) {
  const Oracle oracle(kPattern);
  Draw draw(1);
  for (const std::string_view alphabet :
       {"", "abcdefghijklmnopqrstuvwxyzABCXYZ     ", "aZ@[`{'/:09 \t\n", "'sdmtlver S",
        " \n\r\v\f\x1c\x1f\x7f\x01"
        "a"}) {
    for (int round = 0; round < 3000; ++round) {
      std::string text;
      for (size_t i = draw.below(60); i > 0; --i) {
        text.push_back(alphabet.empty() ? static_cast<char>(draw.below(128)) : alphabet[draw.below(alphabet.size())]);
      }
      ASSERT_EQ(pieces_of(text), oracle.all(text)) << testing::PrintToString(text);
    }
  }
}

TEST(Pretokenizer, MatchesPcre2OnRandomUnicode) {
  const OracleClasses& classes = oracle_classes();
  std::vector<uint32_t> by_class[4];
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (!is_surrogate(c) && char_class(c) == classes.kind[c]) by_class[static_cast<int>(char_class(c))].push_back(c);
  }
  const Oracle oracle(kPattern);
  Draw draw(2);
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (size_t i = draw.below(40); i > 0; --i) {
      const std::vector<uint32_t>& any = by_class[draw.below(4)];
      switch (draw.below(6)) {
        case 0:
          text += utf8(any[draw.below(any.size())]);
          break;
        case 1:
          text += utf8(any[draw.below(std::min<size_t>(any.size(), 64))]);
          break;
        case 2:
          text += " ";
          break;
        case 3:
          text += std::string_view("'sdmtlverabcdefgh")[draw.below(17)];
          break;
        default:
          for (size_t n = draw.below(5); n > 0; --n) text += utf8(any[draw.below(any.size())]);
      }
    }
    ASSERT_EQ(pieces_of(text), oracle.all(text)) << testing::PrintToString(text);
  }
}

// Length of the well-formed sequence at the start of `text` by table 3-7 of the Unicode standard, or 0.
size_t well_formed_bytes(std::string_view text) {
  struct Row {
    uint8_t first_low, first_high, second_low, second_high;
    size_t bytes;
  };
  constexpr Row kRows[] = {{0x00, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
                           {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
                           {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  for (const Row& row : kRows) {
    if (at(0) < row.first_low || at(0) > row.first_high) continue;
    if (text.size() < row.bytes) return 0;
    if (row.bytes > 1 && (at(1) < row.second_low || at(1) > row.second_high)) return 0;
    for (size_t i = 2; i < row.bytes; ++i) {
      if (at(i) < 0x80 || at(i) > 0xBF) return 0;
    }
    return row.bytes;
  }
  return 0;
}

// The text with each byte outside well-formed UTF-8 replaced by U+FFFD.
std::string replaced(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t bytes = well_formed_bytes(text);
    out += bytes == 0 ? "\uFFFD" : text.substr(0, bytes);
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return out;
}

TEST(Pretokenizer, AnIllFormedByteCutsLikeTheReplacementCharacter) {
  Draw draw(3);
  // Overlong forms of 'A', '7' and U+A000, surrogates, too high, cut short, then well-formed ones.
  const std::string_view parts[] = {"\xC1\x81",
                                    "\xE0\x81\x81",
                                    "\xE0\x80\xB7",
                                    "\xF0\x80\x81\x81",
                                    "\xF0\x8A\x80\x80",
                                    "\xED\xA0\x80",
                                    "\xED\xBF\xBF",
                                    "\xF4\x90\x80\x80",
                                    "\xF5",
                                    "\xFF",
                                    "\xC3",
                                    "\xA9",
                                    "\xE2\x82",
                                    "\xF0\x9F\x98",
                                    "\xC3\xA9",
                                    "\xE2\x82\xAC",
                                    "\xED\x9F\xBF",
                                    "\xF0\x9F\x98\x80",
                                    "\xF4\x8F\xBF\xBF",
                                    "\xE0\xA0\x80",
                                    "\xEA\x80\x80",
                                    "\xE3\x80\x80",
                                    " ",
                                    "a",
                                    "7",
                                    "'s"};
  for (int round = 0; round < 30000; ++round) {
    std::string text;
    for (size_t i = draw.below(12); i > 0; --i) {
      text += draw.below(4) == 0 ? std::string(1, static_cast<char>(draw.below(256)))
                                 : std::string(parts[draw.below(std::size(parts))]);
    }
    Pieces expected = pieces_of(replaced(text));
    Pieces pieces = pieces_of(text);
    std::string joined;
    for (std::string& piece : pieces) {
      joined += piece;
      piece = replaced(piece);
    }
    ASSERT_EQ(joined, text);
    ASSERT_EQ(pieces, expected) << testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace t6::data
