// Foreign text in messages: what can be seen stays, what cannot is spelled out.
#include "base/printable.h"

#include <gtest/gtest.h>

namespace t6 {
namespace {

TEST(Printable, WhatCanBeSeenStays) {
  for (const std::string text : {"", "plain text, 'quotes' \"and\" \\", "Grüße, 日本語 😀", "\u00a0\u0301"}) {
    EXPECT_EQ(printable(text), text);
  }
}

TEST(Printable, WhatCannotIsSpelledOut) {
  EXPECT_EQ(printable(std::string("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(printable("\x1b[2J\r\n\t\x7f"), "\\x1b[2J\\x0d\\x0a\\x09\\x7f");
  EXPECT_EQ(printable("\u009b31m\u0085"), "\\u009b31m\\u0085");
  // Right to left from here on, isolates, marks, no width, soft hyphen, byte order mark, line separator, tags.
  EXPECT_EQ(printable("gpj\u202e\u2066\u200f\u200b\u00ad\ufeff\u2028\U000e0041"),
            "gpj\\u202e\\u2066\\u200f\\u200b\\u00ad\\ufeff\\u2028\\ue0041");
  // No UTF-8: a lone byte, an overlong form, a surrogate, a cut character.
  EXPECT_EQ(printable("\xff \xc0\xaf \xed\xa0\x80 \xe6\x97"), "\\xff \\xc0\\xaf \\xed\\xa0\\x80 \\xe6\\x97");
}

TEST(Printable, LongTextIsCutAtACharacter) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abcdef...");
  EXPECT_EQ(printable("aaaaa日x", 6), "aaaaa日...");
  EXPECT_EQ(printable("aaaaaa日", 6), "aaaaaa...");
  EXPECT_EQ(printable(std::string(100, 'x')).size(), 63u);
}

}  // namespace
}  // namespace t6
