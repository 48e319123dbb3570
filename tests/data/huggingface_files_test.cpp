#include "data/huggingface_files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "base/error.h"
#include "data/bpe_trainer.h"
#include "data/huggingface.h"
#include "data/shard_files.h"
#include "data/tokenizer_fixture.h"

namespace t6::data {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::TempFolder;
using testing::write_file;

Tokenizer bytes_and(std::initializer_list<std::string> more) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  tokens.insert(tokens.end(), more);
  return Tokenizer::from_tokens(tokens, "some");
}

const std::string& text_of(const std::vector<NamedText>& files, const std::string& name) {
  for (const NamedText& file : files) {
    if (file.name == name) return file.text;
  }
  fail(ExitCode::internal, "no file {}", name);
}

void expect_round_trip(const Tokenizer& tokenizer) {
  const std::vector<NamedText> files = huggingface_files(tokenizer, 1024);
  const TempFolder folder;
  for (const NamedText& file : files) write_file(folder / file.name, file.text);
  for (const char* name : {"vocab.json", "tokenizer.json"}) {
    const Tokenizer read = Tokenizer::load(folder / name);
    EXPECT_EQ(read.hash(), tokenizer.hash()) << name;
    EXPECT_EQ(read.end_of_text(), tokenizer.end_of_text());
  }
}

TEST(HuggingFaceFiles, Gpt2ComesBackAsItWas) {
  expect_round_trip(gpt2());
  const std::vector<NamedText> files = huggingface_files(gpt2(), 1024);
  const std::string& merges = text_of(files, "merges.txt");
  EXPECT_TRUE(merges.starts_with("#version: 0.2\nĠ t\nĠ a\nh e\ni n\nr e\no n\nĠt he\n")) << merges.substr(0, 80);
  EXPECT_TRUE(merges.ends_with("\nĠColl ider\nĠinform ants\nĠg azed\n")) << merges.substr(merges.size() - 80);
  EXPECT_EQ(std::count(merges.begin(), merges.end(), '\n'), 50001);
  const std::string& vocab = text_of(files, "vocab.json");
  EXPECT_TRUE(vocab.starts_with(R"({"!": 0, "\"": 1, "#": 2, )")) << vocab.substr(0, 40);
  EXPECT_TRUE(contains(vocab, R"(, "\\": 59, )"));
  EXPECT_TRUE(vocab.ends_with(R"(, "\u0120gazed": 50255, "<|endoftext|>": 50256})")) << vocab.substr(vocab.size() - 80);
}

// The first two are, to the byte, what OpenAI published as encoder.json (SHA-256 196139668be63f3b...) and vocab.bpe
// (1ce1664773c50f3e...).
TEST(HuggingFaceFiles, BytesStayTheSame) {
  std::string all;
  for (const NamedText& file : huggingface_files(gpt2(), 1024)) {
    all += fmt::format("{} {} {}\n", file.name, file.text.size(), io::hash_bytes(std::as_bytes(std::span(file.text))));
  }
  EXPECT_EQ(all,
            "vocab.json 1042301 907aa883a1f3f2504594f2ded8b31025\n"
            "merges.txt 456318 5caa565dbb3b366be1a102e27c272620\n"
            "tokenizer.json 2107684 e3ef779d0e88bcc0f8cb049ec25f4ab9\n"
            "tokenizer_config.json 495 8de5c74aed56b95ee2cccc39be73bb96\n"
            "special_tokens_map.json 99 97c413cc629b57a8e4e39461bcd3594e\n");
}

TEST(HuggingFaceFiles, TrainedTokenizersComeBack) {
  const std::string text = io::read_text(fixture_path("mix.txt"));
  BpeTrainer trainer;
  trainer.add(text);
  for (const uint32_t size : {257u, 300u, 800u}) {
    BpeTrainerOptions options;
    options.vocab_size = size;
    expect_round_trip(trainer.train(options));
  }
}

TEST(HuggingFaceFiles, SpecialTokensAndContext) {
  const std::vector<NamedText> files = huggingface_files(bytes_and({"th", "the"}), 77);
  ASSERT_EQ(files.size(), 5u);
  const json config = json::parse(text_of(files, "tokenizer_config.json"));
  EXPECT_EQ(config["tokenizer_class"], "GPT2Tokenizer");
  EXPECT_EQ(config["add_prefix_space"], false);
  EXPECT_EQ(config["model_max_length"], 77);
  EXPECT_EQ(config["added_tokens_decoder"]["258"]["content"], "<|endoftext|>");
  EXPECT_EQ(config["added_tokens_decoder"]["258"]["special"], true);
  const json map = json::parse(text_of(files, "special_tokens_map.json"));
  EXPECT_EQ(map["eos_token"], "<|endoftext|>");
  EXPECT_EQ(map["bos_token"], "<|endoftext|>");
  const json document = json::parse(text_of(files, "tokenizer.json"));
  EXPECT_EQ(document["added_tokens"][0]["id"], 258);
  EXPECT_EQ(document["model"]["vocab"].size(), 259u);
  EXPECT_EQ(document["model"]["merges"], json::parse(R"(["t h", "th e"])"));
  EXPECT_EQ(document["pre_tokenizer"]["add_prefix_space"], false);
  const json bytes = json::parse(text_of(huggingface_files(bytes_and({}), 8), "tokenizer.json"));
  EXPECT_EQ(bytes["model"]["merges"], json::array());
}

TEST(HuggingFaceFiles, WhatMergesCannotSayIsRefused) {
  // "abc" before any two of its bytes are one.
  const Error three = error_of([] { huggingface_files(bytes_and({"abc", "ab"}), 8); });
  EXPECT_EQ(three.code(), ExitCode::data);
  EXPECT_TRUE(contains(three.what(), "token 256, \"abc\"") && contains(three.what(), "leave 3 parts")) << three.what();
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (size_t size = 2; size <= Tokenizer::kEndOfText.size(); ++size) {
    tokens.emplace_back(Tokenizer::kEndOfText.substr(0, size));
  }
  const Error twice = error_of([&] { huggingface_files(Tokenizer::from_tokens(tokens, "some"), 8); });
  EXPECT_EQ(twice.code(), ExitCode::data);
  EXPECT_TRUE(contains(twice.what(), "is the text <|endoftext|>")) << twice.what();
}

}  // namespace
}  // namespace t6::data
