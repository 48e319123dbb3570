#include "data/tokenizer.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/io.h"
#include "base/printable.h"
#include "data/bpe_merge.h"
#include "data/huggingface.h"
#include "data/pretokenizer.h"

namespace t6::data {
namespace {

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<uint8_t, 256> kBase64Value = [] {
  std::array<uint8_t, 256> value{};
  value.fill(255);
  for (size_t i = 0; i < kBase64.size(); ++i) value[static_cast<uint8_t>(kBase64[i])] = static_cast<uint8_t>(i);
  return value;
}();

// Canonical base64 (padded, unused bits zero) appended to `bytes`; false for anything else.
bool decode_base64(std::string_view text, std::string& bytes) {
  if (text.size() % 4 != 0 || text.empty()) return false;
  for (size_t i = 0; i < text.size(); i += 4) {
    const bool last = i + 4 == text.size();
    const int padding = !last || text[i + 3] != '=' ? 0 : text[i + 2] != '=' ? 1 : 2;
    uint32_t word = 0;
    for (size_t k = 0; k < 4; ++k) {
      const uint8_t value = k >= 4 - static_cast<size_t>(padding) ? 0 : kBase64Value[static_cast<uint8_t>(text[i + k])];
      if (value == 255) return false;
      word = word << 6 | value;
    }
    if ((padding == 1 && (word & 0xFF) != 0) || (padding == 2 && (word & 0xFFFF) != 0)) return false;
    bytes.push_back(static_cast<char>(word >> 16));
    if (padding < 2) bytes.push_back(static_cast<char>(word >> 8));
    if (padding < 1) bytes.push_back(static_cast<char>(word));
  }
  return true;
}

void encode_base64(std::string_view bytes, std::string& text) {
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    uint32_t word = 0;
    for (size_t k = 0; k < 3; ++k) word = word << 8 | (k < n ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) text.push_back(k <= n ? kBase64[word >> (18 - 6 * k) & 63] : '=');
  }
}

[[noreturn]] void refuse_row(const std::string& name, size_t line, std::string_view row) {
  fail(ExitCode::data, "{}:{}: expected '<base64 token> <rank>', got '{}'; is this a .tiktoken file?", name, line,
       printable(row));
}

constexpr uint64_t kEmptySlot = ~uint64_t{0};

inline uint64_t hash_of(std::string_view bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    fail(ExitCode::data, "{}: no such tokenizer file; check the path, or make one with 't6 tokenizer train'",
         path.string());
  }
  if (std::filesystem::is_directory(path, error)) {
    fail(ExitCode::data,
         "{}: expected a tokenizer file, got a folder; name the .tiktoken, tokenizer.json or vocab.json in it",
         path.string());
  }
  const uint64_t size = std::filesystem::is_regular_file(path, error) ? io::File::open_read(path).size() : 0;
  if (size > kMaxFileBytes) {
    fail(ExitCode::data, "{}: expected a tokenizer file of at most {} bytes, got {}", path.string(), kMaxFileBytes,
         size);
  }
  const std::string text = io::read_text(path, kMaxFileBytes);
  if (is_huggingface(text)) return read_huggingface(text, path);
  if (text.starts_with("#version")) {
    fail(ExitCode::data, "{}: these are the merges of a tokenizer; name the vocab.json beside them", path.string());
  }
  return parse(text, path.string());
}

Tokenizer Tokenizer::parse(std::string_view text, const std::string& name) {
  if (text.size() > kMaxFileBytes) {
    fail(ExitCode::data, "{}: expected a .tiktoken rank file of at most {} bytes, got {}", name, kMaxFileBytes,
         text.size());
  }
  if (text.empty()) fail(ExitCode::data, "{}: expected a .tiktoken rank file, got an empty file", name);
  // Counted before anything is allocated for a line, so that millions of empty ones are refused at the first.
  size_t lines = 0;
  for (size_t at = 0; at < text.size(); ++lines) {
    const std::string_view row = text.substr(at, text.find('\n', at) - at);
    if (row.size() < 4) refuse_row(name, lines + 1, row);
    at += row.size() + 1;
  }
  std::vector<std::string> tokens(lines);
  std::string token;
  size_t begin = 0;
  for (size_t line = 1; line <= lines; ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t space = row.find(' ');
    if (space == std::string_view::npos) refuse_row(name, line, row);
    const std::string_view number = row.substr(space + 1);
    uint32_t rank = 0;
    const auto parsed = std::from_chars(number.data(), number.data() + number.size(), rank);
    const bool leading_zero = number.size() > 1 && number.front() == '0';
    if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size() || leading_zero) {
      fail(ExitCode::data, "{}:{}: expected a rank (a whole number) after the space, got '{}'", name, line,
           printable(number));
    }
    if (rank >= lines) {
      fail(ExitCode::data,
           "{}:{}: rank {} is out of range: {} lines must hold the ranks 0 to {}; is the file cut short?", name, line,
           rank, lines, lines - 1);
    }
    if (!tokens[rank].empty()) fail(ExitCode::data, "{}:{}: rank {} is given twice", name, line, rank);
    token.clear();
    if (space / 4 * 3 > kMaxTokenBytes + 2 || !decode_base64(row.substr(0, space), token) ||
        token.size() > kMaxTokenBytes) {
      fail(ExitCode::data, "{}:{}: expected the base64 of 1 to {} bytes before the space, got '{}'", name, line,
           kMaxTokenBytes, printable(row.substr(0, space)));
    }
    tokens[rank] = token;
  }
  return from_tokens(tokens, name);
}

Tokenizer Tokenizer::from_tokens(std::span<const std::string> tokens, const std::string& name) {
  Tokenizer result;
  size_t total = 0;
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    const size_t bytes = tokens[rank].size();
    if (bytes == 0 || bytes > kMaxTokenBytes) {
      fail(ExitCode::data, "{}: token of rank {}: expected 1 to {} bytes, got {}", name, rank, kMaxTokenBytes, bytes);
    }
    total += bytes;
    result.max_token_bytes_ = std::max(result.max_token_bytes_, bytes);
  }
  if (total > kMaxFileBytes) {
    fail(ExitCode::data, "{}: expected at most {} bytes of tokens, got {}", name, kMaxFileBytes, total);
  }
  result.text_.reserve(total);
  result.begins_.reserve(tokens.size() + 1);
  result.begins_.push_back(0);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_64bits_reset(state.get());
  for (const std::string& token : tokens) {
    result.text_ += token;
    result.begins_.push_back(static_cast<uint32_t>(result.text_.size()));
    const auto bytes = static_cast<uint32_t>(token.size());
    const uint8_t length[4] = {static_cast<uint8_t>(bytes), static_cast<uint8_t>(bytes >> 8),
                               static_cast<uint8_t>(bytes >> 16), static_cast<uint8_t>(bytes >> 24)};
    XXH3_64bits_update(state.get(), length, 4);
    XXH3_64bits_update(state.get(), token.data(), token.size());
  }
  result.hash_ = XXH3_64bits_digest(state.get());

  size_t slots = 1024;
  while (slots < tokens.size() * 2) slots *= 2;
  result.slots_.assign(slots, kEmptySlot);
  for (uint32_t rank = 0; rank < tokens.size(); ++rank) {
    const std::string_view bytes = result.bytes_of(rank);
    const uint64_t hash = hash_of(bytes);
    size_t slot = hash & (slots - 1);
    for (; result.slots_[slot] != kEmptySlot; slot = (slot + 1) & (slots - 1)) {
      const auto other = static_cast<uint32_t>(result.slots_[slot]);
      if (result.slots_[slot] >> 32 == hash >> 32 && result.bytes_of(other) == bytes) {
        fail(ExitCode::data, "{}: ranks {} and {} are the same token '{}'", name, other, rank, printable(bytes));
      }
    }
    result.slots_[slot] = (hash >> 32 << 32) | rank;
  }
  result.bytes_.resize(256);
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    result.bytes_[static_cast<size_t>(byte)] = result.find({&text, 1});
    if (result.bytes_[static_cast<size_t>(byte)] == kNone) {
      fail(ExitCode::data,
           "{}: expected all 256 single bytes among the {} tokens, byte 0x{:02x} is missing; is the file cut short?",
           name, tokens.size(), byte);
    }
  }
  result.byte_pairs_.resize(65536, kNone);
  for (uint32_t rank = 0; rank < tokens.size(); ++rank) {
    const std::string_view bytes = result.bytes_of(rank);
    if (bytes.size() != 2) continue;
    result.byte_pairs_[size_t{static_cast<uint8_t>(bytes[0])} << 8 | static_cast<uint8_t>(bytes[1])] = rank;
  }
  return result;
}

std::string Tokenizer::hash_text() const {
  return fmt::format("{:016x}", hash_);
}

std::string_view Tokenizer::token(uint32_t id) const {
  if (id < rank_count()) return bytes_of(id);
  if (id == end_of_text()) return kEndOfText;
  fail(ExitCode::data, "token id {} is out of range: the tokenizer's vocabulary has {}", id, vocab_size());
}

uint32_t Tokenizer::find(std::string_view bytes) const {
  const uint64_t hash = hash_of(bytes);
  const size_t mask = slots_.size() - 1;
  for (size_t slot = hash & mask; slots_[slot] != kEmptySlot; slot = (slot + 1) & mask) {
    if (slots_[slot] >> 32 != hash >> 32) continue;
    const auto rank = static_cast<uint32_t>(slots_[slot]);
    if (bytes_of(rank) == bytes) return rank;
  }
  return kNone;
}

void Tokenizer::encode(std::string_view document, std::vector<uint32_t>& ids) const {
  for_each_piece(document, [&](std::string_view piece) {
    const uint32_t id = piece.size() <= max_token_bytes_ ? find(piece) : kNone;
    if (id != kNone) {
      ids.push_back(id);
    } else {
      merge_piece(*this, piece, ids);
    }
  });
}

std::vector<uint32_t> Tokenizer::encode(std::string_view document) const {
  std::vector<uint32_t> ids;
  encode(document, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const uint32_t> ids) const {
  std::string text;
  for (const uint32_t id : ids) text += token(id);
  return text;
}

std::string Tokenizer::tiktoken_text() const {
  std::string text;
  for (uint32_t rank = 0; rank < rank_count(); ++rank) {
    encode_base64(bytes_of(rank), text);
    fmt::format_to(std::back_inserter(text), " {}\n", rank);
  }
  return text;
}

void Tokenizer::save(const std::filesystem::path& path) const {
  io::write_text_atomically(path, tiktoken_text());
}

}  // namespace t6::data
