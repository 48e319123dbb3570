#include "data/huggingface.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/shard_files.h"
#include "data/tokenizer_fixture.h"

namespace t6::data {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::TempFolder;
using testing::write_file;

// GPT-2's stand-ins for bytes, as UTF-8.
std::string word_of(std::string_view bytes) {
  std::string word;
  for (const char c : bytes) {
    uint32_t point = static_cast<uint8_t>(c);
    if (point <= ' ') {
      point += 0x100;
    } else if (point >= 0x7F && point <= 0xA0) {
      point += 0x121 - 0x7F;
    } else if (point == 0xAD) {
      point = 0x143;
    }
    if (point < 0x80) {
      word.push_back(static_cast<char>(point));
    } else {
      word.push_back(static_cast<char>(0xC0 | point >> 6));
      word.push_back(static_cast<char>(0x80 | (point & 0x3F)));
    }
  }
  return word;
}

// The two tokens that merging leaves of a token's bytes before its own merge.
std::pair<std::string, std::string> merge_of(const Tokenizer& tokenizer, uint32_t rank) {
  std::vector<std::string> parts;
  for (const char c : tokenizer.token(rank)) parts.emplace_back(1, c);
  while (parts.size() > 2) {
    size_t best = 0;
    uint32_t lowest = Tokenizer::kNone;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const uint32_t joined = tokenizer.find(parts[i] + parts[i + 1]);
      if (joined < lowest) lowest = joined, best = i;
    }
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  return {parts.at(0), parts.at(1)};
}

// A tokenizer in both forms.
struct Files {
  json vocab = json::object();
  std::vector<std::string> merges;

  explicit Files(const Tokenizer& tokenizer) {
    for (uint32_t rank = 0; rank < tokenizer.rank_count(); ++rank) {
      vocab[word_of(tokenizer.token(rank))] = rank;
      if (tokenizer.token(rank).size() < 2) continue;
      const auto [left, right] = merge_of(tokenizer, rank);
      merges.push_back(fmt::format("{} {}", word_of(left), word_of(right)));
    }
    vocab["<|endoftext|>"] = tokenizer.rank_count();
  }
  std::string merges_text() const {
    std::string text = "#version: 0.2\n";
    for (const std::string& merge : merges) text += merge + "\n";
    return text;
  }
  // As the library writes GPT-2's.
  json document() const {
    json document = json::parse(R"({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
      "added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": true, "special": true}],
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
      "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false},
      "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
      "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false}})");
    document["added_tokens"][0]["id"] = vocab["<|endoftext|>"];
    document["model"]["vocab"] = vocab;
    document["model"]["merges"] = merges;
    return document;
  }
};

const Files& gpt2_files() {
  static const Files files(gpt2());
  return files;
}

// The bytes and three merges: "th", "the" and " the".
const Files& small_files() {
  static const Files files = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(255 - byte));
    for (const char* token : {"th", "the", " the"}) tokens.emplace_back(token);
    return Files(Tokenizer::from_tokens(tokens, "small"));
  }();
  return files;
}

TEST(HuggingFace, Gpt2IsGpt2InEveryForm) {
  const Files& files = gpt2_files();
  EXPECT_EQ(files.merges[0], "Ġ t");
  EXPECT_EQ(files.merges[1], "Ġ a");
  EXPECT_EQ(files.merges.size(), 50000u);
  const TempFolder folder;
  write_file(folder / "vocab.json", files.vocab.dump());
  write_file(folder / "merges.txt", files.merges_text());
  write_file(folder / "gpt2-vocab.json", files.vocab.dump());
  write_file(folder / "gpt2-merges.txt", files.merges_text());
  write_file(folder / "encoder.json", files.vocab.dump());
  write_file(folder / "vocab.bpe", files.merges_text() + "\n");
  write_file(folder / "tokenizer.json", "\n " + files.document().dump(2));
  json pairs = files.document();
  for (json& merge : pairs["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    merge = {text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)};
  }
  write_file(folder / "pairs.json", pairs.dump());
  for (const char* name : {"vocab.json", "gpt2-vocab.json", "encoder.json", "tokenizer.json", "pairs.json"}) {
    const Tokenizer tokenizer = Tokenizer::load(folder / name);
    EXPECT_EQ(tokenizer.hash(), gpt2().hash()) << name;
    EXPECT_EQ(tokenizer.vocab_size(), 50257u);
    EXPECT_EQ(tokenizer.encode("Grüße, world"), gpt2().encode("Grüße, world"));
  }
}

TEST(HuggingFace, VariantsOfTheSameAreRead) {
  const uint64_t hash = parse_tokenizer_json(small_files().document().dump(), "x").hash();
  const std::vector<std::function<void(json&)>> changes = {
      [](json& d) { d["model"]["vocab"].erase("<|endoftext|>"); },
      [](json& d) { d["added_tokens"] = json::array(); },
      [](json& d) { d["added_tokens"] = json::array(), d["model"]["vocab"].erase("<|endoftext|>"); },
      [](json& d) { d["model"].erase("type"), d.erase("post_processor"), d.erase("decoder"); },
      [](json& d) { d["pre_tokenizer"]["use_regex"] = true; },
      [](json& d) {
        d["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {d["pre_tokenizer"]}}};
      },
      [](json& d) {
        json split = json::parse(R"({"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {}})");
        split["pattern"]["Regex"] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
        d["pre_tokenizer"]["use_regex"] = false;
        d["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, d["pre_tokenizer"]}}};
      },
      [](json& d) { d["model"]["ignore_merges"] = true, d["model"]["unk_token"] = "<|endoftext|>"; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    json document = small_files().document();
    changes[i](document);
    EXPECT_EQ(parse_tokenizer_json(document.dump(), "x").hash(), hash) << i;
  }
}

TEST(HuggingFace, OthersAreRefusedWithTheReason) {
  struct Case {
    std::function<void(json&)> change;
    const char* reason;
  };
  const std::vector<Case> cases = {
      {[](json& d) { d["model"]["type"] = "Unigram"; }, "its model is \"Unigram\""},
      {[](json& d) { d.erase("model"); }, "it has no model"},
      {[](json& d) {
         d["normalizer"] = {{"type", "NFC"}};
       },
       "normalizer"},
      {[](json& d) { d["pre_tokenizer"] = nullptr; }, "not ByteLevel"},
      {[](json& d) { d["pre_tokenizer"]["type"] = "Metaspace"; }, "not ByteLevel"},
      {[](json& d) { d["pre_tokenizer"]["add_prefix_space"] = true; }, "a space before the text"},
      {[](json& d) { d["pre_tokenizer"]["use_regex"] = false; }, "does not split words"},
      {[](json& d) {
         d["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}}, d["pre_tokenizer"]}}};
       },
       "other than GPT-2's"},
      {[](json& d) {
         const json split =
             json::parse(R"({"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "\\p{N}{1,3}"}})");
         d["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, d["pre_tokenizer"]}}};
       },
       "another pattern"},
      {[](json& d) {
         d["post_processor"] = {{"type", "TemplateProcessing"}};
       },
       "adds tokens to every text"},
      {[](json& d) {
         d["decoder"] = {{"type", "WordPiece"}};
       },
       "decoder"},
      {[](json& d) { d["model"]["dropout"] = 0.1; }, "dropout"},
      {[](json& d) { d["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix"},
      {[](json& d) { d["model"]["byte_fallback"] = true; }, "byte_fallback"},
      {[](json& d) { d["added_tokens"][0]["content"] = "<pad>"; }, "added token \"<pad>\""},
      {[](json& d) { d["added_tokens"][0]["id"] = 0; }, "two ids"},
      {[](json& d) { d["added_tokens"][0]["id"] = 300, d["model"]["vocab"].erase("<|endoftext|>"); },
       "has the id 300, but must follow the last token, as 259"},
      {[](json& d) { d["added_tokens"][0].erase("id"); }, "without content or id"},
      {[](json& d) { d["model"]["vocab"]["the"] = 256; }, "each once"},
      {[](json& d) { d["model"]["vocab"]["the"] = 5000; }, "the id 5000"},
      {[](json& d) { d["model"]["vocab"]["the"] = -1; }, "the id -1"},
      {[](json& d) { d["model"]["vocab"]["the"] = "257"; }, "the id \"257\""},
      {[](json& d) {
         std::swap(d["model"]["vocab"]["<|endoftext|>"], d["model"]["vocab"]["the"]);
         d["added_tokens"][0]["id"] = 257;
       },
       "has the id 257, but must follow the last token, as 259"},
      {[](json& d) { std::swap(d["model"]["vocab"]["th"], d["model"]["vocab"]["the"]); }, "rise with the merges"},
      {[](json& d) { d["model"]["vocab"].erase("the"), d["model"]["vocab"]["€"] = 257; }, "stands for no byte"},
      {[](json& d) { d["model"]["vocab"].erase("A"), d["model"]["vocab"]["AA"] = 190; }, "single bytes"},
      {[](json& d) { d["model"]["vocab"] = json::object(); }, "no object of tokens"},
      {[](json& d) { d["model"].erase("merges"); }, "no list of merges"},
      {[](json& d) { d["model"]["merges"].erase(0); }, "2 merges for 3 tokens"},
      {[](json& d) { d["model"]["merges"][1] = "th a"; }, "makes no token"},
      {[](json& d) { d["model"]["merges"][1] = "t he"; }, "merge 2, \"t\" and \"he\", is not how"},
      {[](json& d) { d["model"]["merges"][1] = "the"; }, "merge 2 is \"the\""},
      {[](json& d) { d["model"]["merges"][1] = 5; }, "merge 2 is 5"},
      {[](json& d) {
         d["model"]["merges"][1] = {"th", "e", "x"};
       },
       "merge 2 is"},
  };
  for (const Case& one : cases) {
    json document = small_files().document();
    one.change(document);
    const Error error = error_of([&] { parse_tokenizer_json(document.dump(), "some.json"); });
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_TRUE(contains(error.what(), one.reason) && contains(error.what(), "some.json")) << one.reason << "\n"
                                                                                           << error.what();
  }
}

TEST(HuggingFace, FilesThatAreNone) {
  const TempFolder folder;
  const auto refused = [&](const std::string& name, const std::string& text, const char* reason) {
    write_file(folder / name, text);
    const Error error = error_of([&] { Tokenizer::load(folder / name); });
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_TRUE(contains(error.what(), reason) && contains(error.what(), name)) << error.what();
  };
  const std::string text = small_files().document().dump();
  refused("a.json", text.substr(0, text.size() / 2), "not valid JSON");
  refused("a.json", "{\"\xFF\": 1}", "not valid JSON");
  refused("a.json", "{", "not valid JSON");
  refused("a.json", std::string(1'000'000, '{'), "nested deeper than 16");
  refused("a.json", fmt::format("{{{}", std::string(1'000'000, '[')), "nested deeper than 16");
  refused("vocab.json", small_files().vocab.dump(), "merges.txt, which is no file");
  ASSERT_EQ(::mkfifo((folder / "merges.txt").c_str(), 0600), 0);
  refused("vocab.json", small_files().vocab.dump(), "merges.txt, which is no file");
  std::filesystem::remove(folder / "merges.txt");
  refused("merges.txt", small_files().merges_text(), "name the vocab.json");
  write_file(folder / "merges.txt", "#version: 0.2\nt h\nth e\nĠ the x\n");
  refused("vocab.json", small_files().vocab.dump(), "merge 3");
  write_file(folder / "merges.txt", small_files().merges_text());
  EXPECT_EQ(Tokenizer::load(folder / "vocab.json").vocab_size(), 260u);
  refused("vocab.json", "{}", "no object of tokens");
}

// Well-formed, and costly or misleading all the same.
TEST(HuggingFace, HostileFilesAreRefusedBeforeTheyCost) {
  const auto refused = [&](const std::string& vocab, const std::string& merges, const char* reason) {
    const Error error = error_of([&] { parse_vocab_and_merges(vocab, merges, "vocab.json"); });
    EXPECT_EQ(error.code(), ExitCode::data);
    const std::string message = error.what();
    EXPECT_TRUE(contains(message, reason)) << message;
    EXPECT_LT(message.size(), 300u) << message;
    for (const char c : message) EXPECT_TRUE(c >= ' ' && c <= '~') << int{c} << " in: " << message;
  };
  // Deep enough to end a program that walks it by recursion.
  refused("{\"a\":" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}", "", "nested deeper than 16");
  std::string many = "{\"a\":[0";
  for (int i = 0; i < 1'000'000; ++i) many += ",0";
  refused(many + "]}", "", "more than 1000000 values");
  refused(fmt::format("{{\"{}\":0}}", std::string(20'000, 'a')), "", "a string of more than");
  refused(R"({"a":0,"b":1,"\u0061":0})", "", "key \"a\" comes twice");
  const std::string vocab = small_files().vocab.dump();
  std::string merges;
  for (int i = 0; i < 300; ++i) merges += "t h\n";
  refused(vocab, merges, "more merges than tokens");
  // What a terminal could take for a command: ESC, and CSI as one character.
  for (const char* word : {"\\u001b[2J", "\\u009b2J", "\xc2\x9b", "\x7f", "\xe2\x80\xae"}) {
    refused(fmt::format("{{\"{}\":5}}", word), "", "has the id 5");
    refused(fmt::format("{{\"a\":\"{}\"}}", word), "", "has the id");
    refused(fmt::format("{{\"{}\":0}}", word), "", "stands for no byte");
  }
  for (const char* line : {"\x1b[2J", "\xc2\x9b b c", "\xff"}) refused(vocab, line, "merge 1 is");
  refused(vocab, "\x1b[2J t\nth e\nt h\n", "stands for no byte");
}

}  // namespace
}  // namespace t6::data
