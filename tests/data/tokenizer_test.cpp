#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>

#include "base/error.h"
#include "data/bpe_merge.h"
#include "data/pretokenizer.h"
#include "data/tokenizer_fixture.h"

namespace t6::data {
namespace {

TEST(Gpt2, MatchesTiktokenOnASmallMix) {
  const std::string text = io::read_text(fixture_path("mix.txt"));
  const std::vector<uint32_t> expected = read_ids(fixture_path("mix.gpt2.u16"));
  ASSERT_EQ(expected.size(), 9620u);
  EXPECT_EQ(gpt2().encode(text), expected);
  EXPECT_EQ(gpt2().decode(expected), text);
}

TEST(Gpt2, MatchesTiktokenOnHardUnicode) {
  const std::string text = read_zstd(fixture_path("unicode_mix.txt.zst"));
  const std::vector<uint32_t> ids = gpt2().encode(text);
  EXPECT_EQ(ids.size(), 801377u);
  EXPECT_EQ(hash_ids(ids), "9c629817a8158eadcda3de2c27605fba");
  EXPECT_EQ(gpt2().decode(ids), text);
}

TEST(Gpt2, MatchesTheFilesOfAFolder) {
  const char* folder = std::getenv("T6_TOKENIZER_DIR");
  if (folder == nullptr) {
    GTEST_SKIP() << "set T6_TOKENIZER_DIR to a folder with gpt2.tiktoken, unicode_mix.txt and unicode_mix.gpt2.u16";
  }
  const io::fs::path dir(folder);
  const Tokenizer tokenizer = Tokenizer::load(dir / "gpt2.tiktoken");
  EXPECT_EQ(tokenizer.hash(), gpt2().hash());
  const std::vector<uint32_t> ids = tokenizer.encode(io::read_text(dir / "unicode_mix.txt"));
  EXPECT_TRUE(ids == read_ids(dir / "unicode_mix.gpt2.u16"));
}

TEST(Gpt2, HasItsVocabulary) {
  EXPECT_EQ(gpt2().rank_count(), 50256u);
  EXPECT_EQ(gpt2().vocab_size(), 50257u);
  EXPECT_EQ(gpt2().end_of_text(), 50256u);
  EXPECT_EQ(gpt2().token(50256), "<|endoftext|>");
  EXPECT_EQ(gpt2().token(262), " the");
  EXPECT_EQ(gpt2().find(" the"), 262u);
  EXPECT_EQ(gpt2().find(" theq"), Tokenizer::kNone);
  EXPECT_EQ(gpt2().hash_text(), "58b09f73d0154297");
  EXPECT_EQ(gpt2().encode("<|endoftext|>").size(), 7u);  // text, not the special token
}

// Counts from tiktoken 0.14.
TEST(Gpt2, MergesAMegabyteOfOneCharacter) {
  const std::vector<uint32_t> letters = gpt2().encode(std::string(1000000, 'a'));
  EXPECT_EQ(letters, std::vector<uint32_t>(250000, 24794));
  const std::vector<uint32_t> spaces = gpt2().encode(std::string(1000000, ' '));
  EXPECT_EQ(spaces, std::vector<uint32_t>(1000000, 220));
  const std::string dashes(1000001, '-');
  EXPECT_EQ(gpt2().decode(gpt2().encode(dashes)), dashes);
}

TEST(Tokenizer, AnyBytesRoundTrip) {
  Draw draw(4);
  for (int round = 0; round < 500; ++round) {
    const std::string text = random_text(draw, draw.below(300), "");
    ASSERT_EQ(gpt2().decode(gpt2().encode(text)), text);
  }
}

TEST(Tokenizer, EncodeAppends) {
  std::vector<uint32_t> ids{7};
  gpt2().encode(" the the", ids);
  EXPECT_EQ(ids, (std::vector<uint32_t>{7, 262, 262}));
  gpt2().encode("", ids);
  EXPECT_EQ(ids.size(), 3u);
}

std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  return tokens;
}

// A vocabulary of random joins of earlier tokens, so that merges chain and compete.
Tokenizer random_tokenizer(Draw& draw, std::string_view alphabet, size_t merges) {
  std::vector<std::string> tokens = byte_tokens();
  std::vector<std::string> parts;
  for (const char c : alphabet) parts.emplace_back(1, c);
  while (merges > 0) {
    std::string joined = parts[draw.below(parts.size())] + parts[draw.below(parts.size())];
    if (joined.size() > 40 || std::find(parts.begin(), parts.end(), joined) != parts.end()) continue;
    parts.push_back(joined);
    tokens.push_back(std::move(joined));
    --merges;
  }
  return Tokenizer::from_tokens(tokens, "random");
}

// The definition, word for word: join the leftmost pair of lowest rank until none is a token.
std::vector<uint32_t> merge_plainly(const Tokenizer& tokenizer, std::string_view piece) {
  std::vector<std::string> parts;
  for (const char c : piece) parts.emplace_back(1, c);
  for (;;) {
    uint32_t best = Tokenizer::kNone;
    size_t at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const uint32_t rank = tokenizer.find(parts[i] + parts[i + 1]);
      if (rank < best) {
        best = rank;
        at = i;
      }
    }
    if (best == Tokenizer::kNone) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<uint32_t> ids;
  for (const std::string& part : parts) ids.push_back(tokenizer.find(part));
  return ids;
}

TEST(Merge, BothWaysFollowTheDefinition) {
  Draw draw(5);
  for (int round = 0; round < 300; ++round) {
    const std::string_view alphabet = round % 3 == 0 ? "a" : round % 3 == 1 ? "ab" : "abcd";
    const Tokenizer tokenizer = random_tokenizer(draw, alphabet, alphabet.size() == 1 ? 12 : 60);
    const std::string piece = random_text(draw, 1 + draw.below(round % 10 == 0 ? 600 : 60), alphabet);
    const std::vector<uint32_t> expected = merge_plainly(tokenizer, piece);
    std::vector<uint32_t> scanned, heaped, chosen;
    merge_by_scan(tokenizer, piece, scanned);
    merge_by_heap(tokenizer, piece, heaped);
    merge_piece(tokenizer, piece, chosen);
    ASSERT_EQ(scanned, expected) << piece;
    ASSERT_EQ(heaped, expected) << piece;
    ASSERT_EQ(chosen, expected) << piece;
  }
}

TEST(Merge, ALongPieceOfManyTokensRoundTrips) {
  Draw draw(6);
  const Tokenizer tokenizer = random_tokenizer(draw, "abc", 300);
  const std::string text = random_text(draw, 1000000, "abc");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(RankFile, SavesAndReadsTheSameRanks) {
  const io::fs::path path = io::fs::path(testing::TempDir()) / "t6_tokenizer_test.tiktoken";
  gpt2().save(path);
  EXPECT_EQ(io::read_text(path), read_zstd(fixture_path("gpt2.tiktoken.zst")));
  EXPECT_EQ(Tokenizer::load(path).hash(), gpt2().hash());
  io::remove_all(path);
}

TEST(RankFile, HashTellsTokenizersApart) {
  std::vector<std::string> tokens = byte_tokens();
  const uint64_t bytes_only = Tokenizer::from_tokens(tokens, "a").hash();
  std::swap(tokens[3], tokens[4]);
  EXPECT_NE(Tokenizer::from_tokens(tokens, "b").hash(), bytes_only);
  tokens.push_back("ab");
  tokens.push_back("c\x01\x02");
  const uint64_t first = Tokenizer::from_tokens(tokens, "c").hash();
  tokens[256] = "abc";
  tokens[257] = "\x01\x02";
  EXPECT_NE(Tokenizer::from_tokens(tokens, "d").hash(), first);
}

// Expects Error(data) whose message has both parts.
void expect_refused(const std::string& text, const std::string& where, const std::string& why) {
  try {
    Tokenizer::parse(text, "x.tiktoken");
    FAIL() << "accepted; expected an error with '" << where << "' and '" << why << "'";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find(where), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
  }
}

TEST(RankFile, RefusesWhatIsNotOne) {
  std::vector<std::string> tokens = byte_tokens();
  tokens.push_back("he");
  const std::string good = Tokenizer::from_tokens(tokens, "good").tiktoken_text();
  ASSERT_NO_THROW(Tokenizer::parse(good, "good"));
  ASSERT_NO_THROW(Tokenizer::parse(good.substr(0, good.size() - 1), "no last newline"));
  ASSERT_NE(good.find("\naGU= 256\n"), std::string::npos);
  const auto with_last = [&](const std::string& line) { return good.substr(0, good.find("aGU= 256")) + line; };

  expect_refused("", "x.tiktoken", "empty file");
  expect_refused("\n", "x.tiktoken:1:", "expected '<base64 token> <rank>'");
  expect_refused("{\"model\": 1}\n", "x.tiktoken:1:", "expected a rank");
  expect_refused(std::string("\0\xFF\x80", 3), "x.tiktoken:1:", "got '\\x00\\xff\\x80'");
  expect_refused(good + "\n", "x.tiktoken:258:", "got ''");
  expect_refused(with_last("aGU=256\n"), ":257:", "expected '<base64 token> <rank>'");
  expect_refused(with_last("aGU=  256\n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= 256 \n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= 256\r\n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= -1\n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= +256\n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= 0256\n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= 2.5\n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= \n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= 99999999999999999999\n"), ":257:", "expected a rank");
  expect_refused(with_last("aGU= 257\n"), ":257:", "rank 257 is out of range");
  expect_refused(with_last("aGU= 4294967295\n"), ":257:", "out of range");
  expect_refused(with_last("aGU= 25\n"), ":257:", "rank 25 is given twice");
  expect_refused(with_last("YQ== 256\n"), "ranks 97 and 256", "the same token 'a'");
  for (const char* bad : {"aGU", "aGU==", "aG=U", "aB==", "aGV=", "aGU=aGU=", "a===", "====", "aG U=", "aG-_", "",
                          "\xC3\xA9"
                          "aa"}) {
    expect_refused(with_last(std::string(bad) + " 256\n"),
                   ":257:", std::string(bad) == "aG U=" ? "expected a rank" : "base64");
  }
  std::string big;
  for (size_t i = 0; i < Tokenizer::kMaxTokenBytes / 3 + 1; ++i) big += "YWFh";
  expect_refused(with_last(big + " 256\n"), ":257:", "1 to 1024 bytes");
  expect_refused(std::string(Tokenizer::kMaxFileBytes, '\n'), "x.tiktoken:1:", "got ''");
  expect_refused(std::string(Tokenizer::kMaxFileBytes + 1, '\n'), "x.tiktoken:", "at most 16777216 bytes");
}

TEST(RankFile, RefusesAMissingByte) {
  std::vector<std::string> tokens = byte_tokens();
  tokens[200] = "ab";
  try {
    Tokenizer::from_tokens(tokens, "x");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("byte 0xc8 is missing"), std::string::npos) << error.what();
  }
  tokens[200] = "";
  EXPECT_THROW(Tokenizer::from_tokens(tokens, "x"), Error);
  EXPECT_THROW(Tokenizer::from_tokens({}, "x"), Error);
}

TEST(RankFile, LoadChecksTheSizeAndSaysWhatIsWrongWithThePath) {
  const io::fs::path path = io::fs::path(testing::TempDir()) / "t6_tokenizer_huge.tiktoken";
  io::File::create(path).truncate(uint64_t{1} << 40);
  try {
    Tokenizer::load(path);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("got 1099511627776"), std::string::npos) << error.what();
  }
  io::remove_all(path);
  try {
    Tokenizer::load(path);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
  }
}

// A cut within a line breaks it or its rank; one between lines leaves a smaller vocabulary, which only the hash can
// tell.
TEST(RankFile, ACutFileIsRefusedOrIsItsFirstLines) {
  const std::string text = gpt2().tiktoken_text();
  Draw draw(7);
  for (int round = 0; round < 60; ++round) {
    const size_t cut = draw.below(round < 30 ? 8000 : text.size());
    try {
      const Tokenizer tokenizer = Tokenizer::parse(std::string_view(text).substr(0, cut), "cut");
      ASSERT_TRUE(text[cut] == '\n' || text[cut - 1] == '\n') << cut;
      ASSERT_EQ(tokenizer.tiktoken_text().substr(0, cut), text.substr(0, cut));
      ASSERT_NE(tokenizer.hash(), gpt2().hash());
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::data);
    }
  }
}

TEST(RankFile, DamagedBytesNeverCrash) {
  std::vector<std::string> tokens = byte_tokens();
  for (int i = 0; i < 40; ++i) tokens.push_back(fmt::format("x{}", i));
  const std::string good = Tokenizer::from_tokens(tokens, "good").tiktoken_text();
  Draw draw(8);
  int accepted = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = good;
    for (size_t n = 1 + draw.below(3); n > 0; --n) text[draw.below(text.size())] = static_cast<char>(draw.below(256));
    try {
      const Tokenizer tokenizer = Tokenizer::parse(text, "damaged");
      ASSERT_EQ(tokenizer.decode(tokenizer.encode("any text x12 x3")), "any text x12 x3");
      ++accepted;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::data);
    }
  }
  EXPECT_LT(accepted, 2500);
}

TEST(Tokenizer, DecodeRefusesAnIdOutOfRange) {
  EXPECT_EQ(gpt2().decode(std::vector<uint32_t>{262, 50256}), " the<|endoftext|>");
  try {
    gpt2().decode(std::vector<uint32_t>{262, 50257});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("token id 50257 is out of range"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace t6::data
