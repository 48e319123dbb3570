#include "data/encoder.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/tokenizer_bench.h"
#include "data/tokenizer_fixture.h"

namespace t6::data {
namespace {

TEST(Encoder, GivesTheSameIdsColdAndWarm) {
  Encoder encoder(gpt2());
  for (const std::string& text :
       {io::read_text(fixture_path("mix.txt")), read_zstd(fixture_path("unicode_mix.txt.zst"))}) {
    const std::vector<uint32_t> expected = gpt2().encode(text);
    for (int pass = 0; pass < 3; ++pass) {
      std::vector<uint32_t> ids{1, 2};
      encoder.encode(text, ids);
      ASSERT_EQ(ids.size(), expected.size() + 2);
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), ids.begin() + 2));
      ASSERT_EQ(ids[1], 2u);
    }
  }
}

// Words that share a prefix, differ in trailing zero bytes, or have lengths around the sizes the cache treats apart.
TEST(Encoder, TellsLikeWordsApart) {
  Draw draw(9);
  Encoder encoder(gpt2());
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (size_t n = draw.below(6); n > 0; --n) {
      switch (draw.below(4)) {
        case 0:
          text += "!";
          text += std::string(draw.below(20), '\0');
          break;
        case 1:
          text += " ";
          text += std::string(draw.below(80), "ab"[draw.below(2)]);
          break;
        case 2:
          text += " internationalization";
          text += random_text(draw, draw.below(3), "xyz");
          break;
        default:
          text += random_text(draw, draw.below(20), draw.below(2) == 0 ? "" : "ab ");
      }
    }
    std::vector<uint32_t> ids;
    encoder.encode(text, ids);
    ASSERT_EQ(ids, gpt2().encode(text)) << testing::PrintToString(text);
  }
}

// More words with the same eight first bytes than the cache has places: they meet there, told apart by the later bytes
// alone.
TEST(Encoder, TellsWordsThatShareAPlaceApart) {
  Draw draw(13);
  std::string text;
  for (int i = 0; i < 100000; ++i) {
    text += " prefixes";
    text += random_text(draw, 4, "abcdefghijklmnop");
  }
  Encoder encoder(gpt2());
  std::vector<uint32_t> ids;
  encoder.encode(text, ids);
  EXPECT_TRUE(ids == gpt2().encode(text));
}

TEST(Encoder, DocumentsAreTheSameForAnyWorkerCount) {
  const std::string text = io::read_text(fixture_path("mix.txt"));
  Draw draw(10);
  std::vector<std::string> owned;
  for (int i = 0; i < 500; ++i) {
    const size_t begin = draw.below(text.size());
    owned.push_back(text.substr(begin, draw.below(400)));
  }
  const std::vector<std::string_view> documents(owned.begin(), owned.end());
  std::vector<std::vector<uint32_t>> expected;
  for (const std::string_view document : documents) expected.push_back(gpt2().encode(document));
  for (const int threads : {1, 2, 3, 16}) {
    ASSERT_EQ(encode_documents(gpt2(), documents, threads), expected) << threads;
  }
  std::vector<Encoder> kept;
  kept.emplace_back(gpt2());
  kept.emplace_back(gpt2());
  for (int batch = 0; batch < 3; ++batch) ASSERT_EQ(encode_documents(kept, documents), expected);
  EXPECT_TRUE(encode_documents(gpt2(), {}, 4).empty());
  EXPECT_THROW(encode_documents(gpt2(), documents, 0), Error);
}

TEST(TokenizerBench, CountsWhatItEncodes) {
  const std::string text = io::read_text(fixture_path("mix.txt"));
  const TokenizerBench bench = bench_tokenizer(gpt2(), text, 0.01);
  EXPECT_EQ(bench.bytes, text.size());
  EXPECT_EQ(bench.tokens, 9620u);
  EXPECT_GE(bench.passes, 1);
  EXPECT_GT(bench.mb_per_second, 0);
  EXPECT_THROW(bench_tokenizer(gpt2(), "", 0.01), Error);
}

}  // namespace
}  // namespace t6::data
