#include "cli/utf8_stream.h"

#include <gtest/gtest.h>

namespace t6::cli {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

TEST(Utf8Stream, HoldsACharacterBackUntilItIsWhole) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";  // a, e acute, euro sign, a face, z
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    Utf8Stream stream(false);
    std::string out;
    for (size_t at = 0; at < text.size(); at += piece) {
      const std::string now = stream.add(std::string_view(text).substr(at, piece));
      // Each output is whole characters: it ends before a first byte or at the end.
      EXPECT_TRUE(now.empty() || out.size() + now.size() == text.size() ||
                  (static_cast<unsigned char>(text[out.size() + now.size()]) & 0xC0) != 0x80);
      out += now;
    }
    out += stream.finish();
    EXPECT_EQ(out, text) << "pieces of " << piece;
  }
}

TEST(Utf8Stream, ReplacesBytesThatBelongToNoCharacter) {
  const auto all = [](std::string_view bytes) {
    Utf8Stream stream(false);
    const std::string out = stream.add(bytes);
    return out + stream.finish();
  };
  EXPECT_EQ(all("\xFF"), kReplacement);
  EXPECT_EQ(all("a\x80z"), std::string("a") + kReplacement + "z");
  EXPECT_EQ(all("\xC3"), kReplacement) << "cut off at the end";
  EXPECT_EQ(all("\xC3("), std::string(kReplacement) + "(");
  EXPECT_EQ(all("\xC0\xAF"), std::string(kReplacement) + kReplacement) << "overlong";
  EXPECT_EQ(all("\xED\xA0\x80").find('\xED'), std::string::npos) << "a surrogate";
  EXPECT_EQ(all("\xF4\x90\x80\x80").find('\xF4'), std::string::npos) << "beyond U+10FFFF";
}

TEST(Utf8Stream, ShowsNoControlCharactersOnATerminal) {
  const std::string text = "a\x1B[2J\n\tb\xC2\x9B";
  Utf8Stream file(false), terminal(true);
  EXPECT_EQ(file.add(text), text);
  EXPECT_EQ(terminal.add(text), std::string("a") + kReplacement + "[2J\n\tb" + kReplacement);
}

}  // namespace
}  // namespace t6::cli
