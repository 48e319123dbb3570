#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <numeric>

#include "base/error.h"
#include "base/io.h"
#include "data/encoder.h"

namespace t6::data {
namespace {

std::vector<std::string> single_bytes() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  return tokens;
}

TEST(Gpt2, MatchesTiktokenOnHardUnicode) {
  const char* folder = std::getenv("T6_TOKENIZER_DIR");
  if (folder == nullptr) GTEST_SKIP() << "T6_TOKENIZER_DIR is not set";
  const io::fs::path dir(folder);
  const Tokenizer tokenizer = Tokenizer::load(dir / "gpt2.tiktoken");
  const std::string text = io::read_text(dir / "unicode_mix.txt");
  const std::string raw = io::read_text(dir / "unicode_mix.gpt2.u16");
  std::vector<uint32_t> expected;
  for (size_t i = 0; i + 1 < raw.size(); i += 2) {
    expected.push_back(static_cast<uint32_t>(static_cast<uint8_t>(raw[i]) | static_cast<uint8_t>(raw[i + 1]) << 8));
  }
  const std::vector<uint32_t> ids = tokenizer.encode(text);
  ASSERT_EQ(ids.size(), expected.size());
  EXPECT_TRUE(ids == expected);
  EXPECT_EQ(tokenizer.decode(ids), text);
}

TEST(Tokenizer, SavesAndReads) {
  std::vector<std::string> tokens = single_bytes();
  tokens.push_back("he");
  tokens.push_back("hel");
  const Tokenizer tokenizer = Tokenizer::from_tokens(tokens, "test");
  const Tokenizer again = Tokenizer::parse(tokenizer.tiktoken_text(), "again");
  EXPECT_EQ(again.hash(), tokenizer.hash());
  EXPECT_EQ(again.encode("hello"), (std::vector<uint32_t>{257, 'l', 'o'}));
}

}  // namespace
}  // namespace t6::data
