// Byte-level BPE tokenizer with GPT-2's pre-tokenizer: files in `.tiktoken` and Hugging Face's forms, encoding,
// decoding.
//
// A token's rank is its id; the end-of-text id follows the last rank. Encoding cuts a document into pieces
// (data/pretokenizer.h); a piece that is a token becomes its id, any other is split into bytes and the adjacent pair
// whose joined bytes have the lowest rank, leftmost first, is merged until none is left. Text is bytes:
// decode(encode(x)) == x for every x, also for invalid UTF-8. Special tokens are never read from text: "<|endoftext|>"
// in a document is ordinary text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace t6::data {

class Tokenizer {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  static constexpr uint64_t kMaxFileBytes = uint64_t{16} << 20;
  static constexpr size_t kMaxTokenBytes = 1024;
  static constexpr std::string_view kEndOfText = "<|endoftext|>";

  // Reads a rank file, or a JSON form of the same (data/huggingface.h). A rank file: lines of "<base64 of the token's
  // bytes> <rank>\n", ranks 0..n-1 in any order, each once, no token twice, all 256 single bytes among them.
  // Error(data) with file and line for anything else, or when it is missing; Error(io) when unreadable.
  static Tokenizer load(const std::filesystem::path& path);
  // A rank file from memory; `name` stands for the file in messages.
  static Tokenizer parse(std::string_view text, const std::string& name);
  // tokens[rank]; Error(data) naming the rank when they break the rules above.
  static Tokenizer from_tokens(std::span<const std::string> tokens, const std::string& name);

  uint32_t rank_count() const { return static_cast<uint32_t>(begins_.size() - 1); }
  uint32_t vocab_size() const { return rank_count() + 1; }  // ranks and end-of-text
  uint32_t end_of_text() const { return rank_count(); }
  // XXH3-64 over every token in rank order (its length as little-endian uint32, then its bytes): equal for equal
  // tokenizers.
  uint64_t hash() const { return hash_; }
  std::string hash_text() const;  // 16 hex digits

  // The bytes of an id; end-of-text gives kEndOfText. Error(data) for id >= vocab_size().
  std::string_view token(uint32_t id) const;
  // The id whose bytes these are, or kNone.
  uint32_t find(std::string_view bytes) const;
  size_t max_token_bytes() const { return max_token_bytes_; }
  // Rank of the two bytes together, or kNone.
  uint32_t byte_pair_rank(uint8_t left, uint8_t right) const { return byte_pairs_[size_t{left} << 8 | right]; }
  uint32_t byte_rank(uint8_t byte) const { return bytes_[byte]; }

  // Appends the ids of one whole document. For a corpus use Encoder (data/encoder.h): the same ids, many times faster.
  void encode(std::string_view document, std::vector<uint32_t>& ids) const;
  std::vector<uint32_t> encode(std::string_view document) const;

  std::string decode(std::span<const uint32_t> ids) const;

  // The rank file in rank order; load(save()) has the same hash.
  std::string tiktoken_text() const;
  void save(const std::filesystem::path& path) const;

 private:
  Tokenizer() = default;
  std::string_view bytes_of(uint32_t rank) const {
    return {text_.data() + begins_[rank], begins_[rank + 1] - begins_[rank]};
  }

  std::string text_;                  // the tokens' bytes, in rank order
  std::vector<uint32_t> begins_;      // [rank_count + 1] offsets into text_
  std::vector<uint64_t> slots_;       // open addressing by hash of the bytes: upper hash bits << 32 | rank, or ~0
  std::vector<uint32_t> byte_pairs_;  // [65536]
  std::vector<uint32_t> bytes_;       // [256]
  size_t max_token_bytes_ = 0;
  uint64_t hash_ = 0;
};

}  // namespace t6::data
