#include "data/huggingface.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/io.h"
#include "base/strict_json.h"
#include "base/utf8.h"
#include "data/bpe_merge.h"
#include "data/byte_words.h"

namespace t6::data {
namespace {

using nlohmann::json;

constexpr std::string_view kGpt2Pattern =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s)";
constexpr std::string_view kGpt2PatternOfTheLibrary =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The start of a word for a message: the letters that stand for bytes as they are, all else escaped.
std::string shown_word(std::string_view word) {
  std::string letters = "\"";
  for (std::string_view rest = word; !rest.empty();) {
    const utf8::Char c = utf8::first(rest);
    const bool letter = c.bytes > 0 && c.code_point < kByteOfCharacter.size() && kByteOfCharacter[c.code_point] >= 0;
    if (!letter) return shown(json(std::string(word.substr(0, 40))), 60);
    if (letters.size() > 40) return letters + "...\"";
    letters += rest.substr(0, static_cast<size_t>(c.bytes));
    rest.remove_prefix(static_cast<size_t>(c.bytes));
  }
  return letters + "\"";
}

// What both forms hold.
struct Source {
  std::string name;
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<std::string> words;  // by id, as written
  std::optional<uint64_t> end_of_text;

  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ExitCode::data, "{}: {}; expected a byte-level BPE of GPT-2's kind (or a .tiktoken rank file)", name,
         fmt::format(format, std::forward<Args>(args)...));
  }
};

std::string bytes_of(const Source& source, std::string_view word) {
  std::string bytes;
  for (std::string_view rest = word; !rest.empty();) {
    const utf8::Char c = utf8::first(rest);
    const int byte = c.bytes > 0 && c.code_point < kByteOfCharacter.size() ? kByteOfCharacter[c.code_point] : -1;
    if (byte < 0) source.bad("the token {} has a character that stands for no byte", shown_word(word));
    bytes.push_back(static_cast<char>(byte));
    rest.remove_prefix(static_cast<size_t>(c.bytes));
  }
  return bytes;
}

// More values than a vocabulary and its merges have in that many bytes. A merge may be two tokens of escapes.
constexpr JsonLimits kLimits{.depth = 16,
                             .values = 1'000'000,
                             .token_bytes = 2 * 6 * Tokenizer::kMaxTokenBytes,
                             .bytes = Tokenizer::kMaxFileBytes};

json parse_json(std::string_view text, const std::string& name) {
  json document = parse_strict_json(text, name, ExitCode::data, kLimits);
  if (!document.is_object()) {
    fail(ExitCode::data, "{}: expected a tokenizer.json or vocab.json, got text that is not a JSON object", name);
  }
  return document;
}

// Every word at its id; <|endoftext|>, if it is there, behind the last.
void take_vocabulary(Source& source, const json& vocabulary) {
  if (!vocabulary.is_object() || vocabulary.empty()) source.bad("its vocabulary is no object of tokens and ids");
  source.words.resize(vocabulary.size());
  std::vector<bool> taken(vocabulary.size());
  for (const auto& [word, id] : vocabulary.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= taken.size() || taken[id.get<size_t>()]) {
      source.bad("token {} has the id {}; the {} tokens must have the ids 0 to {}, each once", shown_word(word),
                 shown(id, 40), taken.size(), taken.size() - 1);
    }
    taken[id.get<size_t>()] = true;
    source.words[id.get<size_t>()] = word;
    if (word == Tokenizer::kEndOfText) source.end_of_text = id.get<uint64_t>();
  }
  if (source.end_of_text == source.words.size() - 1) source.words.pop_back();
}

Tokenizer build(const Source& source) {
  const size_t count = source.words.size();
  if (source.end_of_text && *source.end_of_text != count) {
    source.bad(
        "{} has the id {}, but must follow the last token, as {}", Tokenizer::kEndOfText, *source.end_of_text,
        count - static_cast<size_t>(std::count(source.words.begin(), source.words.end(), Tokenizer::kEndOfText)));
  }
  std::vector<std::string> tokens(count);
  for (size_t id = 0; id < count; ++id) tokens[id] = bytes_of(source, source.words[id]);
  Tokenizer tokenizer = Tokenizer::from_tokens(tokens, source.name);

  size_t multiple = 0;
  for (const std::string& token : tokens) multiple += token.size() > 1;
  if (source.merges.size() != multiple) {
    source.bad("it has {} merges for {} tokens of two bytes and more", source.merges.size(), multiple);
  }
  int64_t previous = -1;
  for (size_t i = 0; i < source.merges.size(); ++i) {
    const auto& [left_word, right_word] = source.merges[i];
    const std::string left = bytes_of(source, left_word), right = bytes_of(source, right_word);
    const uint32_t id = tokenizer.find(left + right);
    if (id == Tokenizer::kNone || left.empty() || right.empty()) {
      source.bad("merge {}, {} and {}, makes no token of the vocabulary", i + 1, shown_word(left_word),
                 shown_word(right_word));
    }
    if (id <= previous) {
      source.bad("merge {}, {} and {}, makes the token {}, after one that makes {}: ids must rise with the merges",
                 i + 1, shown_word(left_word), shown_word(right_word), id, previous);
    }
    previous = id;
    const std::vector<std::string_view> parts = parts_before_merge(tokenizer, tokens[id], id);
    if (parts.size() != 2 || parts[0] != left) {
      source.bad("merge {}, {} and {}, is not how earlier merges leave that token", i + 1, shown_word(left_word),
                 shown_word(right_word));
    }
  }
  return tokenizer;
}

void add_merge(Source& source, std::string left, std::string right) {
  if (source.merges.size() == source.words.size()) source.bad("it has more merges than tokens");
  source.merges.emplace_back(std::move(left), std::move(right));
}
void add_merge(Source& source, std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    source.bad("merge {} is {}", source.merges.size() + 1, shown(json(std::string(line.substr(0, 40)))));
  }
  add_merge(source, std::string(line.substr(0, space)), std::string(line.substr(space + 1)));
}

// Absent and null are the same.
const json& member(const json& object, const char* key) {
  static const json none;
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it == object.end() ? none : *it;
}
bool is_type(const json& object, std::string_view type) {
  return member(object, "type") == type;
}
// null, false, 0 and "" alike.
bool is_off(const json& value) {
  return value.is_null() || value == false || value == 0 || value == "" || value == 0.0;
}

// Cutting text into pieces must be GPT-2's: the ByteLevel pre-tokenizer alone, or after a split by the same pattern.
void check_pieces(const Source& source, const json& pre_tokenizer) {
  const json* byte_level = &pre_tokenizer;
  bool pattern = false;
  if (is_type(pre_tokenizer, "Sequence")) {
    const json& steps = member(pre_tokenizer, "pretokenizers");
    const bool with_split = steps.is_array() && steps.size() == 2 && is_type(steps[0], "Split");
    if (!steps.is_array() || (steps.size() != 1 && !with_split)) {
      source.bad("its pre-tokenizer is a sequence other than GPT-2's");
    }
    byte_level = &steps.back();
    if (with_split) {
      const json& regex = member(member(steps[0], "pattern"), "Regex");
      pattern = (regex == kGpt2Pattern || regex == kGpt2PatternOfTheLibrary) &&
                member(steps[0], "behavior") == "Isolated" && is_off(member(steps[0], "invert"));
      if (!pattern) source.bad("its pre-tokenizer splits text by another pattern than GPT-2's");
    }
  }
  if (!is_type(*byte_level, "ByteLevel")) source.bad("its pre-tokenizer is not ByteLevel");
  if (!is_off(member(*byte_level, "add_prefix_space"))) source.bad("its pre-tokenizer puts a space before the text");
  if (member(*byte_level, "use_regex") == false && !pattern) source.bad("its pre-tokenizer does not split words");
}

}  // namespace

bool is_huggingface(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && text[first] == '{';
}

Tokenizer parse_tokenizer_json(std::string_view text, const std::string& name) {
  const json document = parse_json(text, name);
  Source source{.name = name, .merges = {}, .words = {}, .end_of_text = {}};
  const json& model = member(document, "model");
  if (!model.is_object()) source.bad("it has no model");
  const json& type = member(model, "type");
  if (!type.is_null() && type != "BPE") source.bad("its model is {}", shown(type, 40));
  if (!is_off(member(document, "normalizer"))) source.bad("it changes the text before splitting it (normalizer)");
  check_pieces(source, member(document, "pre_tokenizer"));
  const json& post = member(document, "post_processor");
  if (!post.is_null() && !is_type(post, "ByteLevel")) source.bad("it adds tokens to every text (post_processor)");
  const json& decoder = member(document, "decoder");
  if (!decoder.is_null() && !is_type(decoder, "ByteLevel")) source.bad("its decoder is not ByteLevel");
  for (const char* option : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    if (!is_off(member(model, option))) source.bad("its model sets {}", option);
  }
  take_vocabulary(source, member(model, "vocab"));
  const json& added = member(document, "added_tokens");
  if (!added.is_null() && !added.is_array()) source.bad("added_tokens is no list");
  for (const json& token : added) {
    const json &content = member(token, "content"), &id = member(token, "id");
    if (!content.is_string() || !id.is_number_unsigned()) source.bad("an added token is without content or id");
    if (content != Tokenizer::kEndOfText) {
      source.bad("it has the added token {} (only {} is known)", shown(content, 40), Tokenizer::kEndOfText);
    }
    if (source.end_of_text && *source.end_of_text != id.get<uint64_t>()) {
      source.bad("{} has two ids", Tokenizer::kEndOfText);
    }
    source.end_of_text = id.get<uint64_t>();
  }
  const json& merges = member(model, "merges");
  if (!merges.is_array()) source.bad("its model has no list of merges");
  for (const json& merge : merges) {
    if (merge.is_string()) {
      add_merge(source, merge.get_ref<const std::string&>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(source, merge[0].get<std::string>(), merge[1].get<std::string>());
    } else {
      source.bad("merge {} is {}", source.merges.size() + 1, shown(merge, 40));
    }
  }
  return build(source);
}

Tokenizer parse_vocab_and_merges(std::string_view vocab, std::string_view merges, const std::string& name) {
  Source source{.name = name, .merges = {}, .words = {}, .end_of_text = {}};
  take_vocabulary(source, parse_json(vocab, name));
  for (size_t begin = 0; begin < merges.size();) {
    const size_t end = std::min(merges.find('\n', begin), merges.size());
    std::string_view line = merges.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(begin == 0 && line.starts_with("#version"))) add_merge(source, line);
    begin = end + 1;
  }
  return build(source);
}

Tokenizer read_huggingface(std::string_view text, const std::filesystem::path& path) {
  const json document = parse_json(text, path.string());
  if (document.contains("model") && document["model"].is_object()) return parse_tokenizer_json(text, path.string());
  // vocab.json -> merges.txt, gpt2-vocab.json -> gpt2-merges.txt, encoder.json -> vocab.bpe.
  const std::string name = path.filename().string();
  std::string merges = "merges.txt";
  for (const auto& [vocab, other] :
       {std::pair<std::string, std::string>{"vocab.json", "merges.txt"}, {"encoder.json", "vocab.bpe"}}) {
    if (name.ends_with(vocab)) merges = fmt::format("{}{}", name.substr(0, name.size() - vocab.size()), other);
  }
  const std::filesystem::path beside = path.parent_path() / merges;
  std::error_code error;
  if (!std::filesystem::is_regular_file(beside, error)) {
    fail(ExitCode::data, "{}: expected its merges in {}, which is no file; a tokenizer.json holds both", path.string(),
         beside.string());
  }
  return parse_vocab_and_merges(text, io::read_text(beside, Tokenizer::kMaxFileBytes),
                                path.string() + " and " + merges);
}

}  // namespace t6::data
