#include "data/shard_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/log.h"
#include "data/hdf5_tokens.h"
#include "data/shard.h"

namespace t6::data {
namespace {

constexpr uint64_t kMaxShardTokens = std::numeric_limits<int32_t>::max();  // the header's count is an int32
constexpr uint32_t kMaxNarrowVocabulary = 65536;
constexpr size_t kBufferBytes = size_t{1} << 20;
// Ends of hidden names: being written, and being replaced.
constexpr const char* kTemporary = ".tmp";
constexpr const char* kAside = ".old";

bool is_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

ShardWriter::ShardWriter(ShardWriterOptions options) : options_(std::move(options)), width_(options_.width) {
  const ShardWriterOptions& o = options_;
  T6_CHECK(o.vocabulary > 0 && o.end_of_text < o.vocabulary,
           "[ShardWriter] expected end-of-text below the vocabulary {}, got {}", o.vocabulary, o.end_of_text);
  if (o.prefix.empty() || o.prefix.find('/') != std::string::npos || o.prefix.front() == '.') {
    fail(ExitCode::usage, "the shard prefix '{}' is not part of a file name; expected letters, digits, - and _",
         o.prefix);
  }
  if (o.shard_tokens == 0 || o.shard_tokens > kMaxShardTokens || o.val_tokens > kMaxShardTokens) {
    fail(ExitCode::usage, "expected 1 to {} tokens a shard (validation from 0), got {} and {} for validation",
         kMaxShardTokens, o.shard_tokens, o.val_tokens);
  }
  if (!(o.val_fraction >= 0 && o.val_fraction <= 1)) {
    fail(ExitCode::usage, "expected a validation fraction from 0 to 1, got {}", o.val_fraction);
  }
  if (width_ == 0) width_ = o.vocabulary <= kMaxNarrowVocabulary ? 2 : 4;
  if (width_ != 2 && width_ != 4) fail(ExitCode::usage, "expected 2 or 4 bytes a token, got {}", width_);
  if (width_ == 2 && o.vocabulary > kMaxNarrowVocabulary) {
    fail(ExitCode::usage, "a vocabulary of {} does not fit uint16 tokens (at most {}); use uint32", o.vocabulary,
         kMaxNarrowVocabulary);
  }
  io::make_directories(o.folder);
  const std::vector<fs::path> existing = existing_shards();
  if (!existing.empty() && !o.overwrite) {
    fail(ExitCode::usage,
         "{} already holds {} shards with the prefix '{}', such as {}; choose another folder or prefix, or allow "
         "overwriting",
         o.folder.string(), existing.size(), o.prefix, existing.front().filename().string());
  }
  if (const std::vector<fs::path> aside = hidden_files(kAside); !aside.empty() && !o.overwrite) {
    fail(ExitCode::usage,
         "replacing the shards with the prefix '{}' in {} was cut short, and the earlier ones are hidden as {} and the "
         "like; allow overwriting to finish that, or choose another folder or prefix",
         o.prefix, o.folder.string(), aside.front().filename().string());
  }
  remove_temporaries();  // of a run that was killed
  buffer_.reserve(kBufferBytes);
  if (o.val_tokens > 0 && o.val_fraction == 1) {
    val_target_ = o.val_tokens;
  } else if (o.val_tokens > 0 && o.val_fraction > 0) {
    spool_path_ = hidden("spool", kTemporary);
    spool_.emplace(io::File::create(spool_path_));
  }
}

ShardWriter::~ShardWriter() {
  if (finished_) return;
  shard_.reset();
  spool_.reset();
  try {
    remove_temporaries();
  } catch (const std::exception&) {
    // Already failing; leftover temporary files are removed by the next writer.
  }
}

void ShardWriter::add_document(std::span<const uint32_t> ids) {
  ++documents_;
  if (options_.form == ShardForm::hdf5) document_starts_.push_back(tokens_);
  add({&options_.end_of_text, 1});
  add(ids);
}

void ShardWriter::add(std::span<const uint32_t> ids) {
  for (const uint32_t id : ids) {
    T6_CHECK(id < options_.vocabulary, "[ShardWriter] expected ids below {}, got {}", options_.vocabulary, id);
  }
  tokens_ += ids.size();
  if (!spool_) {
    place(ids);
    return;
  }
  write(*spool_, ids);
  if (options_.val_fraction * static_cast<double>(tokens_) >= static_cast<double>(options_.val_tokens)) {
    end_spool(options_.val_tokens);
  }
}

void ShardWriter::place(std::span<const uint32_t> ids) {
  while (!ids.empty()) {
    if (!shard_) open_shard();
    const size_t n = std::min<uint64_t>(ids.size(), shard_->target - shard_->tokens);
    write(shard_->file, ids.first(n));
    shard_->tokens += n;
    placed_ += n;
    ids = ids.subspan(n);
    if (shard_->tokens == shard_->target) close_shard();
  }
}

void ShardWriter::write(io::File& file, std::span<const uint32_t> ids) {
  while (!ids.empty()) {
    const size_t n = std::min(ids.size(), (kBufferBytes - buffer_.size()) / width_);
    const size_t begin = buffer_.size();
    buffer_.resize(begin + n * width_);
    if (width_ == 4) {
      std::memcpy(buffer_.data() + begin, ids.data(), n * 4);
    } else {
      for (size_t i = 0; i < n; ++i) {
        const auto id = static_cast<uint16_t>(ids[i]);
        std::memcpy(buffer_.data() + begin + i * 2, &id, 2);
      }
    }
    ids = ids.subspan(n);
    if (buffer_.size() == kBufferBytes) flush(file);
  }
}

void ShardWriter::flush(io::File& file) {
  file.write_all(std::span<const std::byte>(buffer_));
  buffer_.clear();
}

void ShardWriter::end_spool(uint64_t val_tokens) {
  flush(*spool_);
  spool_->close();
  spool_.reset();
  val_target_ = val_tokens;
  const io::File spool = io::File::open_read(spool_path_);
  std::vector<std::byte> bytes(kBufferBytes);
  std::vector<uint32_t> ids(kBufferBytes / width_);
  for (uint64_t done = 0; done < tokens_;) {
    const size_t n = std::min<uint64_t>(ids.size(), tokens_ - done);
    spool.read_at(std::span(bytes).first(n * width_), done * width_);
    for (size_t i = 0; i < n; ++i) {
      ids[i] = 0;
      std::memcpy(&ids[i], bytes.data() + i * width_, width_);
    }
    place(std::span(ids).first(n));
    done += n;
  }
  io::remove_all(spool_path_);
}

void ShardWriter::open_shard() {
  const bool validation = val_target_ > 0 && placed_ == 0;
  // Number 0 stays with validation, also where there is none.
  const size_t number = validation ? 0 : written_.size() + (val_target_ > 0 ? 0 : 1);
  const std::string name = fmt::format("{}_{}_{:06}.{}", options_.prefix, validation ? "val" : "train", number,
                                       options_.form == ShardForm::bin ? "bin" : "h5");
  // An .h5 file needs its counts before its data has a place, so the tokens wait in a file of their own.
  fs::path path = hidden(name, options_.form == ShardForm::bin ? kTemporary : ".raw.tmp");
  io::File file = io::File::create(path);
  if (options_.form == ShardForm::bin) file.write_all(std::vector<std::byte>(kBinHeaderBytes));
  shard_.emplace(
      Open{std::move(file), std::move(path), options_.folder / name, validation ? val_target_ : options_.shard_tokens});
  written_.push_back({shard_->final_path, 0, validation});
}

void ShardWriter::close_shard() {
  Open shard = std::move(*shard_);
  shard_.reset();
  flush(shard.file);
  written_.back().tokens = shard.tokens;
  if (options_.form == ShardForm::hdf5) {
    shard.file.close();
    close_hdf5(shard);
  } else {
    const std::array<int32_t, 3> header{width_ == 2 ? kBin16Magic : kBin32Magic,
                                        width_ == 2 ? kBin16Version : kBin32Version,
                                        static_cast<int32_t>(shard.tokens)};
    shard.file.write_at(std::as_bytes(std::span(header)), 0);
    shard.file.sync();
    shard.file.close();
  }
  temporaries_.push_back(shard.temporary);
}

void ShardWriter::close_hdf5(Open& shard) {
  const uint64_t begin = placed_ - shard.tokens;
  const auto after = std::lower_bound(document_starts_.begin(), document_starts_.end(), placed_);
  std::vector<uint64_t> starts(document_starts_.begin(), after);
  document_starts_.erase(document_starts_.begin(), after);
  for (uint64_t& start : starts) start -= begin;

  Hdf5Tokens layout{.token_count = shard.tokens,
                    .width = width_,
                    .document_count = starts.size(),
                    .vocabulary = options_.vocabulary,
                    .end_of_text = options_.end_of_text,
                    .tokenizer_hash = options_.tokenizer_hash,
                    .source = options_.source};
  const fs::path raw_path = shard.temporary;
  shard.temporary = hidden(shard.final_path.filename().string(), kTemporary);
  io::File file = create_hdf5_tokens(shard.temporary, layout);
  const io::File raw = io::File::open_read(raw_path);
  std::vector<std::byte> bytes(kBufferBytes);
  for (uint64_t done = 0, size = shard.tokens * width_; done < size;) {
    const auto part = std::span(bytes).first(std::min<uint64_t>(bytes.size(), size - done));
    raw.read_at(part, done);
    file.write_at(part, layout.tokens_offset + done);
    done += part.size();
  }
  file.write_at(std::as_bytes(std::span(starts)), layout.documents_offset);
  file.sync();
  file.close();
  io::remove_all(raw_path);
}

ShardSummary ShardWriter::finish() {
  if (tokens_ == 0) fail(ExitCode::data, "the corpus holds no document with text, so there is nothing to write");
  if (spool_) {
    const double share = std::ceil(options_.val_fraction * static_cast<double>(tokens_));
    end_spool(std::min(options_.val_tokens, static_cast<uint64_t>(share)));
  }
  if (shard_) close_shard();
  ShardSummary summary{written_, documents_, tokens_, 0};
  if (summary.shards.front().validation) summary.val_tokens = summary.shards.front().tokens;
  if (summary.val_tokens == tokens_) {
    fail(ExitCode::data,
         "all {} tokens of the corpus would go to validation and none to training; ask for fewer validation tokens, or "
         "use more "
         "text",
         tokens_);
  }
  name_shards();
  finished_ = true;
  return summary;
}

// The old set, if there is one, steps aside under hidden names and is deleted when the new one has its names durably: a
// failure puts it back, and a kill in between leaves all files of both.
void ShardWriter::name_shards() {
  std::vector<std::pair<fs::path, fs::path>> renamed;  // from, to; in the order of doing
  const auto rename = [&](const fs::path& from, const fs::path& to) {
    io::rename(from, to);
    renamed.emplace_back(from, to);
  };
  try {
    for (const fs::path& old : existing_shards()) {
      // One that is aside already is the older one: a kill came while its place was being taken.
      const fs::path aside = hidden(old.filename().string(), kAside);
      io::exists(aside) ? io::remove_all(old) : rename(old, aside);
    }
    for (size_t i = 0; i < written_.size(); ++i) rename(temporaries_[i], written_[i].path);
    io::sync_directory(options_.folder);
  } catch (...) {
    // Part of a set must not look like the whole.
    std::error_code ignored;
    for (auto it = renamed.rbegin(); it != renamed.rend(); ++it) fs::rename(it->second, it->first, ignored);
    throw;
  }
  try {
    for (const fs::path& old : hidden_files(kAside)) io::remove_all(old);
  } catch (const Error& error) {
    log::warn("the shards are complete, but replaced ones are still there under hidden names: {}", error.what());
  }
}

fs::path ShardWriter::hidden(const std::string& name, const char* suffix) const {
  // Hidden, so that no data pattern matches it.
  return options_.folder / fmt::format(".{}.t6.{}{}", options_.prefix, name, suffix);
}

std::vector<fs::path> ShardWriter::existing_shards() const {
  std::vector<fs::path> found;
  for (const std::string& name : io::list_folder(options_.folder)) {
    const std::string stem = fs::path(name).stem().string(), extension = fs::path(name).extension().string();
    if (extension != ".bin" && extension != ".h5") continue;
    for (const std::string& start : {options_.prefix + "_val_", options_.prefix + "_train_"}) {
      if (stem.starts_with(start) && is_digits(std::string_view(stem).substr(start.size())))
        found.push_back(options_.folder / name);
    }
  }
  return found;
}

std::vector<fs::path> ShardWriter::hidden_files(std::string_view suffix) const {
  const std::string start = fmt::format(".{}.t6.", options_.prefix);
  std::vector<fs::path> found;
  for (const std::string& name : io::list_folder(options_.folder)) {
    if (name.starts_with(start) && name.ends_with(suffix)) found.push_back(options_.folder / name);
  }
  return found;
}

void ShardWriter::remove_temporaries() const {
  for (const fs::path& path : hidden_files(kTemporary)) io::remove_all(path);
}

}  // namespace t6::data
