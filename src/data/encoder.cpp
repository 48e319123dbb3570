#include "data/encoder.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "data/bpe_merge.h"
#include "data/pretokenizer.h"

namespace t6::data {
namespace {

constexpr size_t kShortBytes = 16;  // pieces up to this length are compared as two words
constexpr size_t kShortIds = 11;    // so that an entry is one cache line
constexpr size_t kLongBytes = 64;
constexpr size_t kLongIds = 31;

// Bytes 0..size-1 of the 16 at p as two words, the rest zero. size <= 16.
struct Key {
  uint64_t low, high;
};

inline Key key_at(const char* p, size_t size) {
  Key key;
  std::memcpy(&key, p, sizeof(key));
  const auto mask = [](size_t bytes) { return bytes >= 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * bytes) - 1; };
  key.low &= mask(size);
  key.high &= size > 8 ? mask(size - 8) : 0;
  return key;
}

struct alignas(64) ShortEntry {
  uint64_t low, high;
  uint16_t bytes;  // 0: empty
  uint16_t count;
  std::array<uint32_t, kShortIds> ids;
};
static_assert(sizeof(ShortEntry) == 64);

struct LongEntry {
  uint16_t bytes;  // 0: empty
  uint16_t count;
  std::array<char, kLongBytes> text;
  std::array<uint32_t, kLongIds> ids;
};

}  // namespace

// Direct-mapped tables: a new word takes the place of the one that was there, so memory stays as it is.
struct Encoder::Cache {
  static constexpr int kShortBits = 15;
  static constexpr int kLongBits = 12;
  std::vector<ShortEntry> short_entries{size_t{1} << kShortBits};
  std::vector<LongEntry> long_entries{size_t{1} << kLongBits};

  ShortEntry& entry(Key key, size_t bytes) {
    const uint64_t mixed = (key.low ^ bytes) * 0x9E3779B97F4A7C15 ^ std::rotl(key.high * 0xC2B2AE3D27D4EB4F, 29);
    return short_entries[mixed * 0x9FB21C651E98DF25 >> (64 - kShortBits)];
  }
  LongEntry& entry(std::string_view piece) {
    return long_entries[XXH3_64bits(piece.data(), piece.size()) >> (64 - kLongBits)];
  }
};

// The caller's vector, filled through a pointer with room kept beyond it.
class Encoder::Output {
 public:
  Output(std::vector<uint32_t>& ids, size_t expected) : ids_(ids), used_(ids.size()) {
    ids_.resize(used_ + expected + kRoom);
  }
  ~Output() { ids_.resize(used_); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  // Room for kRoom ids, of which add(n) then keeps the first n.
  uint32_t* room() {
    if (ids_.size() - used_ < kRoom) ids_.resize(ids_.size() + ids_.size() / 2 + kRoom);
    return ids_.data() + used_;
  }
  void add(size_t count) { used_ += count; }
  void append(std::span<const uint32_t> ids) {
    if (ids_.size() - used_ < ids.size()) ids_.resize(ids_.size() + ids_.size() / 2 + ids.size());
    std::copy(ids.begin(), ids.end(), ids_.begin() + static_cast<std::ptrdiff_t>(used_));
    used_ += ids.size();
  }

 private:
  static constexpr size_t kRoom = 64;
  std::vector<uint32_t>& ids_;
  size_t used_;
};

Encoder::Encoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer), cache_(std::make_unique<Cache>()) {}
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;
Encoder::~Encoder() = default;

void Encoder::encode_anew(std::string_view piece) {
  scratch_.clear();
  const uint32_t id = piece.size() <= tokenizer_->max_token_bytes() ? tokenizer_->find(piece) : Tokenizer::kNone;
  if (id != Tokenizer::kNone) {
    scratch_.push_back(id);
  } else {
    merge_piece(*tokenizer_, piece, scratch_);
  }
}

void Encoder::encode_long(std::string_view piece, Output& output) {
  if (piece.size() > kLongBytes) {
    encode_anew(piece);
    output.append(scratch_);
    return;
  }
  LongEntry& entry = cache_->entry(piece);
  if (entry.bytes == piece.size() && std::memcmp(entry.text.data(), piece.data(), piece.size()) == 0) {
    output.append({entry.ids.data(), entry.count});
    return;
  }
  encode_anew(piece);
  output.append(scratch_);
  if (scratch_.size() > kLongIds) return;
  entry.bytes = static_cast<uint16_t>(piece.size());
  entry.count = static_cast<uint16_t>(scratch_.size());
  std::copy(piece.begin(), piece.end(), entry.text.begin());
  std::copy(scratch_.begin(), scratch_.end(), entry.ids.begin());
}

void Encoder::encode(std::string_view document, std::vector<uint32_t>& ids) {
  Output output(ids, document.size() / 4);
  const char* const end = document.data() + document.size();
  for (const char* p = document.data(); p != end;) {
    const char* const next = piece_end(p, end);
    const auto size = static_cast<size_t>(next - p);
    if (size > kShortBytes) {
      encode_long({p, size}, output);
      p = next;
      continue;
    }
    Key key;
    if (end - p >= static_cast<std::ptrdiff_t>(kShortBytes)) {
      key = key_at(p, size);
    } else {
      char padded[kShortBytes] = {};
      std::copy(p, next, padded);
      key = key_at(padded, size);
    }
    ShortEntry& entry = cache_->entry(key, size);
    if (entry.low == key.low && entry.high == key.high && entry.bytes == size) {
      std::copy(entry.ids.begin(), entry.ids.end(), output.room());
      output.add(entry.count);
    } else {
      encode_anew({p, size});
      output.append(scratch_);
      if (scratch_.size() <= kShortIds) {
        entry.low = key.low;
        entry.high = key.high;
        entry.bytes = static_cast<uint16_t>(size);
        entry.count = static_cast<uint16_t>(scratch_.size());
        std::copy(scratch_.begin(), scratch_.end(), entry.ids.begin());
      }
    }
    p = next;
  }
}

std::vector<std::vector<uint32_t>> encode_documents(const Tokenizer& tokenizer,
                                                    std::span<const std::string_view> documents, int threads) {
  T6_CHECK(threads >= 1, "[encode_documents] expected at least 1 thread, got {}", threads);
  std::vector<Encoder> encoders;
  for (int i = 0; i < threads; ++i) encoders.emplace_back(tokenizer);
  return encode_documents(encoders, documents);
}

std::vector<std::vector<uint32_t>> encode_documents(std::span<Encoder> encoders,
                                                    std::span<const std::string_view> documents) {
  T6_CHECK(!encoders.empty(), "[encode_documents] expected at least 1 encoder, got none");
  std::vector<std::vector<uint32_t>> ids(documents.size());
  std::atomic<size_t> next{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
  const auto work = [&](Encoder& encoder) {
    try {
      for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < documents.size();)
        encoder.encode(documents[i], ids[i]);
    } catch (...) {
      next = documents.size();
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> workers;
    for (Encoder& encoder : encoders.subspan(1)) workers.emplace_back([&work, &encoder] { work(encoder); });
    work(encoders.front());
  }
  if (failure) std::rethrow_exception(failure);
  return ids;
}

}  // namespace t6::data
