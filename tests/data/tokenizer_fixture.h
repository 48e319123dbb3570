// GPT-2's ranks and texts with known ids for the tokenizer tests; see tests/data/tokenizer/README.md.
#pragma once

#include <gtest/gtest.h>
#include <zstd.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/io.h"
#include "base/rng.h"
#include "data/tokenizer.h"

namespace t6::data {

inline io::fs::path fixture_path(const std::string& name) {
  return io::fs::path(T6_SOURCE_DIR) / "tests/data/tokenizer" / name;
}

inline std::string read_zstd(const io::fs::path& path) {
  const std::string packed = io::read_text(path);
  std::string text(ZSTD_getFrameContentSize(packed.data(), packed.size()), '\0');
  EXPECT_EQ(ZSTD_decompress(text.data(), text.size(), packed.data(), packed.size()), text.size());
  return text;
}

inline const Tokenizer& gpt2() {
  static const Tokenizer tokenizer = Tokenizer::parse(read_zstd(fixture_path("gpt2.tiktoken.zst")), "gpt2.tiktoken");
  return tokenizer;
}

// Ids of a little-endian uint16 file.
inline std::vector<uint32_t> read_ids(const io::fs::path& path) {
  const std::string raw = io::read_text(path);
  std::vector<uint32_t> ids;
  for (size_t i = 0; i + 1 < raw.size(); i += 2) {
    ids.push_back(static_cast<uint32_t>(static_cast<uint8_t>(raw[i]) | static_cast<uint8_t>(raw[i + 1]) << 8));
  }
  return ids;
}

// XXH3-128 of the ids as little-endian uint16.
inline std::string hash_ids(std::span<const uint32_t> ids) {
  std::vector<std::byte> bytes;
  for (const uint32_t id : ids) {
    bytes.push_back(static_cast<std::byte>(id));
    bytes.push_back(static_cast<std::byte>(id >> 8));
  }
  return io::hash_bytes(bytes);
}

// Numbers that differ from call to call, the same in every run.
class Draw {
 public:
  explicit Draw(uint64_t seed) : rng_(seed, RngPurpose::test) {}
  size_t below(size_t bound) { return static_cast<size_t>(rng_.below(next_++, bound)); }

 private:
  Philox rng_;
  uint64_t next_ = 0;
};

// Random bytes: mostly from `alphabet`, or any when it is empty.
inline std::string random_text(Draw& draw, size_t size, std::string_view alphabet) {
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    text.push_back(alphabet.empty() ? static_cast<char>(draw.below(256)) : alphabet[draw.below(alphabet.size())]);
  }
  return text;
}

}  // namespace t6::data
