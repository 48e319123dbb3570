// Token shards: files of token ids, checked when opened and again, id by id, when read.
//
// Forms, told apart by content and never by name:
//   .bin  256 little-endian int32 {20240520, 1, token count, 0...}, then uint16 ids (llm.c's GPT-2 form)
//   .bin  the same with {20240801, 7, ...} and uint32 ids (llm.c's Llama-3 form)
//   .h5   see hdf5_tokens.h
// Files are read by pread: one that shrinks while in use is an Error, not a SIGBUS.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/io.h"

namespace t6::data {

namespace fs = std::filesystem;

constexpr size_t kBinHeaderBytes = 1024;
constexpr int32_t kBin16Magic = 20240520;
constexpr int32_t kBin16Version = 1;
constexpr int32_t kBin32Magic = 20240801;
constexpr int32_t kBin32Version = 7;

class TokenShard {
 public:
  // Opens and validates: magic, version, count against the file's size, samples of the ids (< vocabulary, the model's).
  // Error(data) naming the file, the reason and a hint.
  static TokenShard open(const fs::path& path, uint32_t vocabulary);

  const fs::path& path() const { return file_.path(); }
  uint64_t size() const { return count_; }                               // tokens
  uint32_t width() const { return width_; }                              // bytes a token on disk: 2 or 4
  const std::string& tokenizer_hash() const { return tokenizer_hash_; }  // empty when the form does not say

  // Reads ids [offset, offset + out.size()). Safe from several threads. Error(data) naming shard, position and id when
  // an id is not below the vocabulary or the file has changed; the range itself is the caller's contract.
  void read(std::span<int32_t> out, uint64_t offset) const;
  void read(std::span<uint32_t> out, uint64_t offset) const;

  // Token indices at which documents start, ascending; empty when the form does not say (.bin). Error(data).
  std::vector<uint64_t> document_offsets() const;

 private:
  explicit TokenShard(io::File file) : file_(std::move(file)) {}
  void read_bytes(std::span<std::byte> bytes, uint64_t file_offset) const;
  void open_bin(std::span<const int32_t> header);
  void open_hdf5();
  void check_sample() const;
  [[noreturn]] void fail_at(uint64_t position, uint32_t id) const;

  io::File file_;
  uint64_t file_size_ = 0;
  uint64_t data_offset_ = kBinHeaderBytes;  // of the first token, in bytes
  uint64_t count_ = 0;
  uint32_t width_ = 2;
  uint32_t vocabulary_ = 0;
  uint64_t documents_offset_ = 0;
  uint64_t document_count_ = 0;
  std::string tokenizer_hash_;
};

// Files matching the patterns of glob(3), with braces and ~: sorted by bytes within a pattern, patterns in their order.
// Error(data) when a pattern matches nothing, has more than 1,000 alternatives in braces, or a file is matched twice.
std::vector<fs::path> expand_globs(std::span<const std::string> patterns);

// The shards of one split, all open.
class ShardSet {
 public:
  // Error(data) as TokenShard::open and expand_globs, and when two shards name different tokenizers. Raises the soft
  // limit on open files when there are many shards.
  static ShardSet open(std::span<const std::string> patterns, uint32_t vocabulary);
  static ShardSet open(std::span<const fs::path> paths, uint32_t vocabulary);

  size_t size() const { return shards_.size(); }
  const TokenShard& operator[](size_t i) const { return shards_[i]; }
  std::vector<uint64_t> token_counts() const;  // by shard
  uint64_t total_tokens() const;

 private:
  std::vector<TokenShard> shards_;
};

}  // namespace t6::data
