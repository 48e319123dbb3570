#include "data/shard.h"

#include <glob.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "base/error.h"
#include "data/hdf5_tokens.h"

namespace t6::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token shards are read as they lie in the file");

constexpr std::array<unsigned char, 8> kHdf5Signature{0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
constexpr size_t kReadTokens = 4096;    // staging for uint16 ids
constexpr size_t kSampleTokens = 2048;  // a block checked on opening
constexpr uint64_t kSampleBlocks = 8;

template <class... Args>
[[noreturn]] void bad(const fs::path& path, fmt::format_string<Args...> format, Args&&... args) {
  fail(ExitCode::data, "token shard {}: {}", path.string(), fmt::format(format, std::forward<Args>(args)...));
}

// What a file with another magic number probably is.
const char* guess(std::span<const std::byte> head) {
  const auto starts = [&](std::initializer_list<int> bytes) {
    size_t i = 0;
    for (int byte : bytes) {
      if (i >= head.size() || head[i++] != static_cast<std::byte>(byte)) return false;
    }
    return true;
  };
  if (starts({0x1f, 0x8b}) || starts({0x28, 0xb5, 0x2f, 0xfd})) return "it is compressed: decompress it first";
  if (starts({'P', 'A', 'R', '1'})) return "it is a Parquet file: turn it into shards with 't6 tokenize'";
  if (starts({'{'})) return "it looks like JSON text: turn it into shards with 't6 tokenize'";
  if (starts({0x01, 0x34, 0xd7, 0x08}) || starts({0x01, 0x34, 0xd8, 0x21})) return "its numbers are big-endian";
  return "files without this header (such as nanoGPT's train.bin) are not shards; make shards with 't6 tokenize'";
}

// The first index of an id >= vocabulary, or ids.size().
template <class T>
size_t find_bad(std::span<const T> ids, uint32_t vocabulary) {
  T largest = 0;
  for (const T id : ids) largest = std::max(largest, id);
  if (largest < vocabulary) return ids.size();
  return static_cast<size_t>(std::find_if(ids.begin(), ids.end(), [&](T id) { return id >= vocabulary; }) -
                             ids.begin());
}

}  // namespace

TokenShard TokenShard::open(const fs::path& path, uint32_t vocabulary) {
  T6_CHECK(vocabulary > 0 && vocabulary <= uint32_t{1} << 31, "[TokenShard] expected a vocabulary in 1..2^31, got {}",
           vocabulary);
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) bad(path, "no such file; check the data patterns of the config");
  if (!fs::is_regular_file(status))
    bad(path, "expected a file, got a folder or a device; name the files with a pattern");
  TokenShard shard(io::File::open_read(path));
  shard.file_size_ = shard.file_.size();
  shard.vocabulary_ = vocabulary;
  std::array<std::byte, kBinHeaderBytes> head{};
  const size_t head_bytes = std::min<uint64_t>(head.size(), shard.file_size_);
  shard.read_bytes(std::span(head).first(head_bytes), 0);
  // With a user block the signature lies at 512, 1024, ...; only files made by hand have one.
  const bool hdf5 = head_bytes >= kHdf5Signature.size() &&
                    (std::memcmp(head.data(), kHdf5Signature.data(), kHdf5Signature.size()) == 0 ||
                     (head_bytes == head.size() &&
                      std::memcmp(head.data() + 512, kHdf5Signature.data(), kHdf5Signature.size()) == 0));
  if (hdf5) {
    shard.open_hdf5();
  } else {
    if (head_bytes == 0) bad(path, "the file is empty; make it again with 't6 tokenize'");
    std::array<int32_t, kBinHeaderBytes / 4> header{};
    std::memcpy(header.data(), head.data(), head_bytes);
    if (head_bytes >= 4 && header[0] != kBin16Magic && header[0] != kBin32Magic) {
      bad(path, "expected the magic number {} or {} at byte 0, or an HDF5 file, got {}; {}", kBin16Magic, kBin32Magic,
          header[0], guess(std::span(head).first(head_bytes)));
    }
    if (head_bytes < head.size()) {
      bad(path, "the header is cut off: expected {} bytes, the file has {}; copy or make it again", kBinHeaderBytes,
          shard.file_size_);
    }
    shard.open_bin(header);
  }
  shard.check_sample();
  return shard;
}

void TokenShard::open_bin(std::span<const int32_t> header) {
  const bool narrow = header[0] == kBin16Magic;
  const int32_t version = narrow ? kBin16Version : kBin32Version;
  width_ = narrow ? 2 : 4;
  if (header[1] != version) {
    bad(path(), "expected version {} after magic {} (byte 4), got {}; make it again with 't6 tokenize'", version,
        header[0], header[1]);
  }
  if (header[2] <= 0) {
    bad(path(), "the token count (byte 8) is {}, expected at least 1; make it again with 't6 tokenize'", header[2]);
  }
  count_ = static_cast<uint64_t>(header[2]);
  const uint64_t expected = kBinHeaderBytes + count_ * width_;  // below 2^34
  if (file_size_ != expected) {
    bad(path(), "{} tokens of {} bytes need a file of {} bytes, but it has {} ({}); copy or make it again", count_,
        width_, expected, file_size_, file_size_ < expected ? "cut off" : "bytes left over");
  }
}

void TokenShard::open_hdf5() {
  const Hdf5Tokens layout = open_hdf5_tokens(file_);
  if (layout.token_count == 0) bad(path(), "/tokens is empty; make it again with 't6 tokenize'");
  if (layout.vocabulary && *layout.vocabulary > vocabulary_) {
    bad(path(),
        "its tokenizer has {} ids, but the model's vocabulary is {}; use the model's tokenizer or a larger vocabulary",
        *layout.vocabulary, vocabulary_);
  }
  if (layout.document_count > layout.token_count) {
    bad(path(), "/doc_offsets has {} documents for {} tokens; make it again with 't6 tokenize'", layout.document_count,
        layout.token_count);
  }
  data_offset_ = layout.tokens_offset;
  count_ = layout.token_count;
  width_ = layout.width;
  documents_offset_ = layout.documents_offset;
  document_count_ = layout.document_count;
  tokenizer_hash_ = layout.tokenizer_hash;
}

void TokenShard::check_sample() const {
  std::array<uint32_t, kSampleTokens> ids{};
  const uint64_t n = std::min<uint64_t>(ids.size(), count_);
  const uint64_t blocks = count_ == n ? 1 : kSampleBlocks;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t offset = blocks == 1 ? 0 : (count_ - n) / (blocks - 1) * i;
    read(std::span<uint32_t>(ids).first(n), i + 1 == blocks ? count_ - n : offset);
  }
}

void TokenShard::read(std::span<uint32_t> out, uint64_t offset) const {
  T6_CHECK(offset <= count_ && out.size() <= count_ - offset,
           "[TokenShard] expected a range within {} tokens, got {} at {}", count_, out.size(), offset);
  if (width_ == 4) {
    read_bytes(std::as_writable_bytes(out), data_offset_ + offset * 4);
    const size_t i = find_bad<uint32_t>(out, vocabulary_);
    if (i < out.size()) fail_at(offset + i, out[i]);
    return;
  }
  std::array<uint16_t, kReadTokens> staging;
  for (size_t done = 0; done < out.size();) {
    const auto part = std::span<uint16_t>(staging).first(std::min(staging.size(), out.size() - done));
    read_bytes(std::as_writable_bytes(part), data_offset_ + (offset + done) * 2);
    const size_t i = find_bad<uint16_t>(part, vocabulary_);
    if (i < part.size()) fail_at(offset + done + i, part[i]);
    std::copy(part.begin(), part.end(), out.begin() + static_cast<ptrdiff_t>(done));
    done += part.size();
  }
}

void TokenShard::read(std::span<int32_t> out, uint64_t offset) const {
  // Ids below 2^31 look the same in both types, which may alias.
  read(std::span(reinterpret_cast<uint32_t*>(out.data()), out.size()), offset);
}

std::vector<uint64_t> TokenShard::document_offsets() const {
  std::vector<uint64_t> starts(document_count_);
  read_bytes(std::as_writable_bytes(std::span(starts)), documents_offset_);
  for (size_t i = 0; i < starts.size(); ++i) {
    if (starts[i] >= count_ || (i > 0 && starts[i] <= starts[i - 1])) {
      bad(path(), "/doc_offsets[{}] is {}, expected ascending values below {}; make it again with 't6 tokenize'", i,
          starts[i], count_);
    }
  }
  return starts;
}

void TokenShard::read_bytes(std::span<std::byte> bytes, uint64_t file_offset) const {
  try {
    file_.read_at(bytes, file_offset);
  } catch (const Error&) {
    const uint64_t size_now = file_.size();
    if (size_now == file_size_) throw;
    bad(path(),
        "cannot read {} bytes at byte {}: the file had {} bytes when it was opened and now has {}; do not change "
        "shards in use",
        bytes.size(), file_offset, file_size_, size_now);
  }
}

void TokenShard::fail_at(uint64_t position, uint32_t id) const {
  bad(path(),
      "token {} (byte {}) has id {}, expected below the vocabulary {}; use the tokenizer of these shards, set the "
      "model's vocabulary to it, or make a damaged shard again",
      position, data_offset_ + position * width_, id, vocabulary_);
}

namespace {

constexpr uint64_t kMaxAlternatives = 1000;

// At least as many as glob() will make of a pattern's braces, but no more than a few times kMaxAlternatives.
uint64_t alternatives_of(std::string_view pattern) {
  uint64_t all = 1;
  std::vector<uint64_t> open;  // alternatives of each brace that is not closed yet
  for (const char c : pattern) {
    if (c == '{') open.push_back(1);
    if (c == ',' && !open.empty()) ++open.back();
    if (c == '}' && !open.empty()) {
      all *= open.back();
      open.pop_back();
    }
    if (all > kMaxAlternatives) break;
  }
  return all;
}

}  // namespace

std::vector<fs::path> expand_globs(std::span<const std::string> patterns) {
  std::vector<fs::path> paths;
  std::map<std::string, std::string> seen;  // path to the pattern that matched it
  for (const std::string& pattern : patterns) {
    if (alternatives_of(pattern) > kMaxAlternatives) {
      fail(ExitCode::data,
           "the data pattern '{}' has more than {} alternatives in braces; use '*', or several patterns", pattern,
           kMaxAlternatives);
    }
    glob_t matches{};
    // A folder that is not there holds no match; one that cannot be read is said.
    const auto unreadable = [](const char*, int error) { return error == ENOENT ? 0 : 1; };
    const int result = ::glob(pattern.c_str(), GLOB_NOSORT | GLOB_BRACE | GLOB_TILDE, unreadable, &matches);
    std::vector<std::string> found(matches.gl_pathv, matches.gl_pathv + (result == 0 ? matches.gl_pathc : 0));
    ::globfree(&matches);
    if (result == GLOB_ABORTED)
      fail(ExitCode::data, "cannot read a folder of the data pattern '{}'; check its rights", pattern);
    if (found.empty()) {
      fail(ExitCode::data,
           "no file matches the data pattern '{}' (from the folder {}); check the path, or make shards with "
           "'t6 tokenize'",
           pattern, fs::current_path().string());
    }
    std::sort(found.begin(), found.end());
    for (std::string& path : found) {
      const auto [other, fresh] = seen.emplace(path, pattern);
      if (!fresh) {
        fail(ExitCode::data, "{} matches both data patterns '{}' and '{}'; let every file match once", path,
             other->second, pattern);
      }
      paths.emplace_back(std::move(path));
    }
  }
  return paths;
}

ShardSet ShardSet::open(std::span<const std::string> patterns, uint32_t vocabulary) {
  return open(std::span<const fs::path>(expand_globs(patterns)), vocabulary);
}

ShardSet ShardSet::open(std::span<const fs::path> paths, uint32_t vocabulary) {
  if (paths.empty()) fail(ExitCode::data, "no token shards were given; name them with a data pattern");
  constexpr rlim_t kSpare = 512;  // for everything else the program opens
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < paths.size() + kSpare) {
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, paths.size() + kSpare);
    ::setrlimit(RLIMIT_NOFILE, &limit);  // when it is not enough, opening says so
  }
  ShardSet set;
  set.shards_.reserve(paths.size());
  const TokenShard* named = nullptr;
  for (const fs::path& path : paths) {
    set.shards_.push_back(TokenShard::open(path, vocabulary));
    const TokenShard& shard = set.shards_.back();
    if (shard.tokenizer_hash().empty()) continue;
    if (named != nullptr && named->tokenizer_hash() != shard.tokenizer_hash()) {
      bad(path, "its tokenizer ({}) is not that of {} ({}); train on shards of one tokenizer", shard.tokenizer_hash(),
          named->path().string(), named->tokenizer_hash());
    }
    named = &shard;
  }
  return set;
}

std::vector<uint64_t> ShardSet::token_counts() const {
  std::vector<uint64_t> counts;
  counts.reserve(shards_.size());
  for (const TokenShard& shard : shards_) counts.push_back(shard.size());
  return counts;
}

uint64_t ShardSet::total_tokens() const {
  uint64_t total = 0;
  for (const TokenShard& shard : shards_) total += shard.size();
  return total;
}

}  // namespace t6::data
