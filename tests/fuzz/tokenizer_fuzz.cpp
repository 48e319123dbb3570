// Tokenizer files: refused with exit code 3, or a tokenizer that its own rank file gives again and that loses no byte.
#include "base/io.h"
#include "data/huggingface.h"
#include "data/huggingface_files.h"
#include "data/tokenizer.h"
#include "fuzz/fuzz_target.h"

namespace t6::fuzz {
namespace {

using data::Tokenizer;

void require_works(const Tokenizer& tokenizer) {
  const std::string text = tokenizer.tiktoken_text();
  std::optional<Tokenizer> again;
  require(accepts({ExitCode::data}, [&] { again = Tokenizer::parse(text, "printed"); }), "refuses its own rank file");
  require(again->hash() == tokenizer.hash(), "another tokenizer from its own rank file");
  // Not every rank file can be said in merges; one that can comes back the same.
  std::vector<data::NamedText> files;
  if (accepts({ExitCode::data}, [&] { files = data::huggingface_files(tokenizer, 1024); })) {
    require(accepts({ExitCode::data}, [&] { again = data::parse_tokenizer_json(files.at(2).text, files[2].name); }),
            "refuses its own tokenizer.json");
    require(again->hash() == tokenizer.hash(), "another tokenizer from its own tokenizer.json");
  }
  const std::string_view sample = "a b's\xff\xf0\x9f\x98\x80 the  then\n<|endoftext|>";
  const std::vector<uint32_t> ids = tokenizer.encode(sample);
  require(tokenizer.decode(ids) == sample, "decode(encode(text)) is another text");
  for (const uint32_t id : ids) require(id < tokenizer.rank_count(), "id {} of {} ranks", id, tokenizer.rank_count());
}

void append_base64(std::string& text, std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j) text += i + j > bytes.size() ? '=' : kDigits[group >> (18 - 6 * j) & 63];
  }
}

const std::string& all_bytes_ranks() {
  static const std::string text = [] {
    std::string lines;
    for (int byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      append_base64(lines, {&c, 1});
      lines += fmt::format(" {}\n", byte);
    }
    return lines;
  }();
  return text;
}

// "word": id of the 256 bytes, in the stand-ins of Hugging Face's files.
const std::string& all_bytes_words() {
  static const std::string text = [] {
    std::string entries;
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool visible = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const uint32_t c = visible ? byte : next++;
      std::string word;
      if (c == '"' || c == '\\') word += '\\';
      if (c >= 0x80) word += static_cast<char>(0xC0 | c >> 6);
      word += static_cast<char>(c >= 0x80 ? 0x80 | (c & 63) : c);
      entries += fmt::format("{}\"{}\":{}", byte > 0 ? "," : "", word, byte);
    }
    return entries;
  }();
  return text;
}

template <class Read>
void run_reader(Read&& read) {
  std::optional<Tokenizer> tokenizer;
  if (accepts({ExitCode::data}, [&] { tokenizer = read(); })) require_works(*tokenizer);
}

// In all three, an input that begins with '+' stands behind the 256 bytes that every tokenizer must have.
void run_ranks(std::string_view input) {
  const std::string text =
      input.starts_with('+') ? all_bytes_ranks() + std::string(input.substr(1)) : std::string(input);
  run_reader([&] { return Tokenizer::parse(text, "fuzz.tiktoken"); });
}

// "+" entries of the vocabulary, merges, further members.
void run_json(std::string_view input) {
  std::string text(input);
  if (input.starts_with('+')) {
    const auto pieces = pieces_of(input.substr(1), 3);
    text = fmt::format(
        R"({{"model":{{"type":"BPE","vocab":{{{}{}}},"merges":[{}]}},"pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false}}{}}})",
        all_bytes_words(), pieces[0], pieces[1], pieces[2]);
  }
  (void)data::is_huggingface(text);
  run_reader([&] { return data::parse_tokenizer_json(text, "tokenizer.json"); });
}

void run_vocabulary(std::string_view input) {
  const bool whole = !input.starts_with('+');
  const auto pieces = pieces_of(whole ? input : input.substr(1), 2);
  const std::string vocabulary = whole ? std::string(pieces[0]) : fmt::format("{{{}{}}}", all_bytes_words(), pieces[0]);
  run_reader([&] { return data::parse_vocab_and_merges(vocabulary, pieces[1], "vocab.json"); });
}

std::vector<std::string> rank_seeds() {
  return {"",
          "+",
          "+dGg= 256\ndGhl 257\n",
          "+YWE= 256\nYWFhYQ== 257",
          "IQ== 0\nIg== 1\n",
          "+IHQ= 257\nIHRo 256\n",
          "+AAECAwQ= 256\r\n",
          "IQ== 00\n",
          "+YQ== 256\n",
          "=== 0\n"};
}
std::vector<std::string> json_seeds() {
  return {
      "{}",
      "+",
      "+,\"th\":256,\"the\":257\x1e\"t h\",\"th e\"\x1e",
      "+,\"th\":256,\"the\":257,\"<|endoftext|>\":258\x1e[\"t\",\"h\"],[\"th\",\"e\"]\x1e,\"added_tokens\":[{\"id\":"
      "258,\"content\":\"<|endoftext|>\","
      "\"special\":true}]",
      "+\x1e\x1e,\"post_processor\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},\"normalizer\":null",
      "+\x1e\x1e,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{"
      "\"Regex\":\"x\"}},{\"type\":"
      "\"ByteLevel\"}]}",
      "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}",
      "+,\"th\":256,\"t\\u0068\":256\x1e\x1e",
      "{\"model\":" + std::string(40, '[') + std::string(40, ']') + "}",
      "[[[[[[[[{\"a\":1e999}]]]]]]]]"};
}
std::vector<std::string> vocabulary_seeds() {
  return {"{}\x1e",
          "+\x1e",
          "+,\"th\":256,\"the\":257\x1e#version: 0.2\nt h\nth e\n",
          "+,\"<|endoftext|>\":256\x1e\n",
          "+,\"\xc4\xa0t\":256\x1e\xc4\xa0 t\r\n",
          "+,\"aa\":256,\"aaaa\":257\x1e"
          "a a\naa aa\n",
          "{\"a\":" + std::string(40, '[') + std::string(40, ']') + "}\x1e",
          "{\"\\u001b[2J\":7}\x1e\x1b[2J",
          "{\"a\":0,\"b\":1}\x1e"
          "a b c\n"};
}

Registered ranks_target({"tokenizer_ranks", "rank files (.tiktoken)", &run_ranks, &rank_seeds, 1024});
Registered json_target({"tokenizer_json", "tokenizer.json of Hugging Face", &run_json, &json_seeds, 1024});
Registered vocabulary_target({"tokenizer_vocab", "vocab.json with merges.txt", &run_vocabulary, &vocabulary_seeds,
                              1024});

}  // namespace
}  // namespace t6::fuzz
