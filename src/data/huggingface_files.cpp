#include "data/huggingface_files.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "data/bpe_merge.h"
#include "data/byte_words.h"

namespace t6::data {
namespace {

using nlohmann::ordered_json;

std::string quoted(const std::string& text, bool ascii = false) {
  return nlohmann::json(text).dump(-1, ' ', ascii);
}

// Words by id, <|endoftext|> last.
std::vector<std::string> words_of(const Tokenizer& tokenizer) {
  std::vector<std::string> words;
  words.reserve(tokenizer.vocab_size());
  for (uint32_t id = 0; id < tokenizer.rank_count(); ++id) words.push_back(word_of_bytes(tokenizer.token(id)));
  if (const uint32_t id = tokenizer.find(Tokenizer::kEndOfText); id != Tokenizer::kNone) {
    fail(ExitCode::data,
         "the tokenizer's token {} is the text {}, and so has no place of its own in a vocab.json; train "
         "one whose tokens do not join letters and signs",
         id, Tokenizer::kEndOfText);
  }
  words.emplace_back(Tokenizer::kEndOfText);
  return words;
}

// "left right" in words, for each token of two bytes and more.
std::vector<std::string> merges_of(const Tokenizer& tokenizer) {
  std::vector<std::string> merges;
  for (uint32_t id = 0; id < tokenizer.rank_count(); ++id) {
    const std::string_view token = tokenizer.token(id);
    if (token.size() < 2) continue;
    const std::vector<std::string_view> parts = parts_before_merge(tokenizer, token, id);
    if (parts.size() != 2) {
      fail(ExitCode::data,
           "the tokenizer's token {}, \"{}\", cannot be said as a merge: the tokens of lower rank leave {} parts of it "
           "where two are needed; a merges.txt cannot hold this tokenizer",
           id, word_of_bytes(token.substr(0, 40)), parts.size());
    }
    merges.push_back(word_of_bytes(parts[0]) + " " + word_of_bytes(parts[1]));
  }
  return merges;
}

// To the byte the form of OpenAI's encoder.json, as merges_txt is that of its vocab.bpe.
std::string vocab_json(const std::vector<std::string>& words) {
  std::string text = "{";
  for (size_t id = 0; id < words.size(); ++id) {
    fmt::format_to(std::back_inserter(text), "{}{}: {}", id ? ", " : "", quoted(words[id], true), id);
  }
  return text + "}";
}

std::string merges_txt(const std::vector<std::string>& merges) {
  std::string text = "#version: 0.2\n";
  for (const std::string& merge : merges) text += merge + "\n";
  return text;
}

// What a library needs to know of <|endoftext|>, besides its id.
ordered_json end_of_text_properties() {
  return {{"content", Tokenizer::kEndOfText},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", true}};
}

ordered_json byte_level(bool trim_offsets) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", trim_offsets}, {"use_regex", true}};
}

std::string tokenizer_json(const std::vector<std::string>& words, const std::vector<std::string>& merges) {
  ordered_json end_of_text{{"id", words.size() - 1}};
  end_of_text.update(end_of_text_properties());
  ordered_json document{{"version", "1.0"},
                        {"truncation", nullptr},
                        {"padding", nullptr},
                        {"added_tokens", ordered_json::array({end_of_text})},
                        {"normalizer", nullptr},
                        {"pre_tokenizer", byte_level(true)},
                        {"post_processor", byte_level(false)},
                        {"decoder", byte_level(true)},
                        {"model",
                         {{"type", "BPE"},
                          {"dropout", nullptr},
                          {"unk_token", nullptr},
                          {"continuing_subword_prefix", ""},
                          {"end_of_word_suffix", ""},
                          {"fuse_unk", false},
                          {"byte_fallback", false},
                          {"ignore_merges", false}}}};
  // The long parts are written by hand: an ordered object looks through all its keys for each new one.
  std::string text = document.dump(2);
  constexpr std::string_view kEnd = "\n  }\n}";  // of the model and the document
  text.resize(text.size() - kEnd.size());
  text += ",\n    \"vocab\": {";
  for (size_t id = 0; id < words.size(); ++id) {
    fmt::format_to(std::back_inserter(text), "{}\n      {}: {}", id ? "," : "", quoted(words[id]), id);
  }
  text += "\n    },\n    \"merges\": [";
  for (size_t i = 0; i < merges.size(); ++i) {
    fmt::format_to(std::back_inserter(text), "{}\n      {}", i ? "," : "", quoted(merges[i]));
  }
  text += merges.empty() ? "]" : "\n    ]";
  return text.append(kEnd) + "\n";
}

std::string tokenizer_config_json(size_t end_of_text, int64_t context) {
  const ordered_json document{{"add_bos_token", false},
                              {"add_prefix_space", false},
                              {"added_tokens_decoder", {{std::to_string(end_of_text), end_of_text_properties()}}},
                              {"bos_token", Tokenizer::kEndOfText},
                              {"clean_up_tokenization_spaces", false},
                              {"eos_token", Tokenizer::kEndOfText},
                              {"errors", "replace"},
                              {"model_max_length", context},
                              {"tokenizer_class", "GPT2Tokenizer"},
                              {"unk_token", Tokenizer::kEndOfText}};
  return document.dump(2) + "\n";
}

std::string special_tokens_map_json() {
  const ordered_json document{
      {"bos_token", Tokenizer::kEndOfText}, {"eos_token", Tokenizer::kEndOfText}, {"unk_token", Tokenizer::kEndOfText}};
  return document.dump(2) + "\n";
}

}  // namespace

std::vector<NamedText> huggingface_files(const Tokenizer& tokenizer, int64_t context) {
  const std::vector<std::string> words = words_of(tokenizer), merges = merges_of(tokenizer);
  return {{"vocab.json", vocab_json(words)},
          {"merges.txt", merges_txt(merges)},
          {"tokenizer.json", tokenizer_json(words, merges)},
          {"tokenizer_config.json", tokenizer_config_json(tokenizer.end_of_text(), context)},
          {"special_tokens_map.json", special_tokens_map_json()}};
}

}  // namespace t6::data
