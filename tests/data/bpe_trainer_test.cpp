#include "data/bpe_trainer.h"

#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "data/pretokenizer.h"
#include "data/tokenizer_fixture.h"

namespace t6::data {
namespace {

using Ids = std::vector<uint32_t>;

// Learns by counting every pair anew before each merge: the definition of bpe_trainer.h. Returns the tokens, as many as
// there are pairs for; `words` becomes the pieces as merged.
std::vector<std::string> train_plainly(std::string_view text, size_t ranks, uint64_t min_pair_count,
                                       std::map<std::string, std::pair<uint64_t, Ids>>& words) {
  words.clear();
  for_each_piece(text, [&](std::string_view piece) {
    auto& [count, ids] = words[std::string(piece)];
    if (count++ == 0) {
      for (const char byte : piece) ids.push_back(static_cast<uint8_t>(byte));
    }
  });
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  while (tokens.size() < ranks) {
    std::map<std::pair<uint32_t, uint32_t>, uint64_t> counts;
    for (const auto& [piece, word] : words) {
      for (size_t i = 0; i + 1 < word.second.size(); ++i) counts[{word.second[i], word.second[i + 1]}] += word.first;
    }
    std::pair<uint32_t, uint32_t> best;
    uint64_t most = 0;
    for (const auto& [pair, count] : counts) {
      if (count > most) {
        best = pair;
        most = count;
      }
    }
    if (most < min_pair_count) break;
    for (auto& [piece, word] : words) {
      Ids merged;
      for (size_t i = 0; i < word.second.size(); ++i) {
        const bool here =
            i + 1 < word.second.size() && word.second[i] == best.first && word.second[i + 1] == best.second;
        merged.push_back(here ? static_cast<uint32_t>(tokens.size()) : word.second[i]);
        i += here;
      }
      word.second = merged;
    }
    tokens.push_back(tokens[best.first] + tokens[best.second]);
  }
  return tokens;
}

Tokenizer train(std::string_view text, uint32_t vocab_size, uint64_t min_pair_count = 2) {
  BpeTrainer trainer;
  trainer.add(text);
  return trainer.train({.vocab_size = vocab_size, .min_pair_count = min_pair_count, .progress = {}});
}

std::vector<std::string> tokens_of(const Tokenizer& tokenizer) {
  std::vector<std::string> tokens;
  for (uint32_t id = 0; id < tokenizer.rank_count(); ++id) tokens.emplace_back(tokenizer.token(id));
  return tokens;
}

std::string message_of(const BpeTrainer& trainer, uint32_t vocab_size, ExitCode code) {
  try {
    trainer.train({.vocab_size = vocab_size, .min_pair_count = 2, .progress = {}});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "trained";
  return "";
}

TEST(BpeTrainer, FollowsTheDefinition) {
  Draw draw(11);
  const std::string mix = io::read_text(fixture_path("mix.txt"));
  const std::string texts[] = {mix.substr(0, 6000), "aaaa aaaaa aaaaaaa aaaaaaaa b bb bbb aab aab baa",
                               random_text(draw, 3000, "aab "), random_text(draw, 3000, "abcdefgh    "),
                               random_text(draw, 4000, "")};
  for (const std::string& text : texts) {
    for (const uint64_t min_pair_count : {1, 2, 5}) {
      std::map<std::string, std::pair<uint64_t, Ids>> words;
      const std::vector<std::string> expected = train_plainly(text, 256 + 150, min_pair_count, words);
      const Tokenizer tokenizer = train(text, static_cast<uint32_t>(expected.size()) + 1, min_pair_count);
      ASSERT_EQ(tokens_of(tokenizer), expected);
      // The encoder, which knows ranks and no merges, cuts every piece as training left it.
      for (const auto& [piece, word] : words)
        ASSERT_EQ(tokenizer.encode(piece), word.second) << testing::PrintToString(piece);
    }
  }
}

TEST(BpeTrainer, OrderOfDocumentsDoesNotMatter) {
  const std::string mix = io::read_text(fixture_path("mix.txt"));
  BpeTrainer forward, backward;
  for (int i = 0; i < 18; ++i) {
    forward.add(std::string_view(mix).substr(static_cast<size_t>(i) * 1000, 1000));
    backward.add(std::string_view(mix).substr(static_cast<size_t>(17 - i) * 1000, 1000));
  }
  EXPECT_EQ(forward.bytes(), 18000u);
  EXPECT_EQ(forward.distinct_pieces(), backward.distinct_pieces());
  const BpeTrainerOptions options{.vocab_size = 700, .min_pair_count = 2, .progress = {}};
  EXPECT_EQ(forward.train(options).hash(), backward.train(options).hash());
}

TEST(BpeTrainer, LearntTokenizerIsARankFileAndRoundTrips) {
  const std::string mix = io::read_text(fixture_path("mix.txt"));
  const Tokenizer tokenizer = train(mix, 800);
  EXPECT_EQ(tokenizer.vocab_size(), 800u);
  EXPECT_EQ(tokenizer.end_of_text(), 799u);
  EXPECT_EQ(Tokenizer::parse(tokenizer.tiktoken_text(), "again").hash(), tokenizer.hash());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(mix)), mix);
  EXPECT_LT(tokenizer.encode(mix).size() * 2, mix.size());
}

TEST(BpeTrainer, SmallestVocabularyIsTheBytes) {
  const Tokenizer tokenizer = train("a", 257);
  EXPECT_EQ(tokenizer.vocab_size(), 257u);
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{'a', 'b'}));
}

TEST(BpeTrainer, ALongPieceIsNotQuadratic) {
  Draw draw(12);
  const std::string text = random_text(draw, 1000000, "acgt") + std::string(1000000, 'a');
  const Tokenizer tokenizer = train(text, 257 + 500);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(BpeTrainer, TokensStayWithinWhatARankFileHolds) {
  const std::string text(100000, '-');
  BpeTrainer trainer;
  trainer.add(text);
  // 2, 4, ..., 1024 dashes; the next would be 2048. Shorter leftovers make a few more.
  const std::string message = message_of(trainer, 1000, ExitCode::data);
  EXPECT_NE(message.find("supports at most 267 ids"), std::string::npos) << message;
  EXPECT_EQ(train(text, 267).max_token_bytes(), 1024u);
}

TEST(BpeTrainer, ReportsProgress) {
  std::vector<std::pair<uint32_t, uint32_t>> seen;
  BpeTrainer trainer;
  trainer.add(io::read_text(fixture_path("mix.txt")));
  trainer.train({.vocab_size = 600, .min_pair_count = 2, .progress = [&](uint32_t learnt, uint32_t total) {
                   seen.emplace_back(learnt, total);
                 }});
  EXPECT_EQ(seen, (std::vector<std::pair<uint32_t, uint32_t>>{{0, 343}, {256, 343}, {343, 343}}));
}

TEST(BpeTrainer, SaysWhatIsWrong) {
  BpeTrainer trainer;
  EXPECT_NE(message_of(trainer, 300, ExitCode::data).find("no text to learn a tokenizer from"), std::string::npos);
  trainer.add("");
  EXPECT_NE(message_of(trainer, 300, ExitCode::data).find("no text to learn a tokenizer from"), std::string::npos);
  trainer.add("the the the");
  EXPECT_NE(message_of(trainer, 256, ExitCode::usage).find("expected 257"), std::string::npos);
  EXPECT_NE(message_of(trainer, 0, ExitCode::usage).find("got 0"), std::string::npos);
  EXPECT_NE(message_of(trainer, 1000001, ExitCode::usage).find("to 1000000"), std::string::npos);
  // "the" once and " the" twice give "he", "the", " the": 3 merges; " the" is whole then.
  EXPECT_NE(message_of(trainer, 300, ExitCode::data).find("supports at most 260 ids, expected 300"), std::string::npos);
}

}  // namespace
}  // namespace t6::data
