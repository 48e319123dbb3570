// Writes documents as token shards, in the layout of FineWeb-Edu: every document is [end-of-text] + its ids, documents
// are concatenated and cut into shards of exactly shard_tokens, across documents where that falls so.
//
// The first tokens are for validation: <prefix>_val_000000.bin; then <prefix>_train_000001.bin, _000002 and so on. With
// N tokens in all, validation gets min(val_tokens, ceil(val_fraction * N)): 5 % of a small corpus, one whole shard of a
// large one. As N is not known at first, tokens go to a spool file beside the shards until the smaller of the two is.
//
// Nothing appears under its final name before finish(): shards are written under hidden temporary names and fsynced,
// then all renamed. A writer that is destroyed before that, by an error say, leaves nothing behind, and shards that
// were to be replaced as they were.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/io.h"

namespace t6::data {

namespace fs = std::filesystem;

enum class ShardForm { bin, hdf5 };

struct ShardWriterOptions {
  fs::path folder;  // made when missing
  std::string prefix = "tokens";
  ShardForm form = ShardForm::bin;
  uint32_t width = 0;  // bytes a token: 2 or 4; 0 takes 2 when the vocabulary allows
  uint64_t shard_tokens = 100'000'000;
  uint64_t val_tokens = 100'000'000;  // at most 2^31 - 1, as shard_tokens; 0: no validation shard
  double val_fraction = 0.05;         // 1: val_tokens exactly
  bool overwrite = false;             // replace shards of this prefix that are there
  // What the shards hold; the last two go into .h5 only.
  uint32_t vocabulary = 0;
  uint32_t end_of_text = 0;
  std::string tokenizer_hash = {};
  std::string source = {};
};

struct WrittenShard {
  fs::path path;
  uint64_t tokens = 0;
  bool validation = false;
};

struct ShardSummary {
  std::vector<WrittenShard> shards;
  uint64_t documents = 0;
  uint64_t tokens = 0;  // with the end-of-text ids
  uint64_t val_tokens = 0;
};

class ShardWriter {
 public:
  // Error(usage) for options that cannot be, or shards of this prefix in the folder without `overwrite`. Error(io).
  explicit ShardWriter(ShardWriterOptions options);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  // Adds [end-of-text] + ids; every id below the vocabulary. Error(io).
  void add_document(std::span<const uint32_t> ids);

  uint64_t documents() const { return documents_; }
  uint64_t tokens() const { return tokens_; }

  // Completes and names the shards; called once, last. Error(data) when there is no token to train on, Error(io).
  ShardSummary finish();

 private:
  // A file being filled; its tokens start at `tokens_at`.
  struct Open {
    io::File file;
    fs::path temporary;
    fs::path final_path;
    uint64_t target;  // tokens
    uint64_t tokens = 0;
  };

  void add(std::span<const uint32_t> ids);
  void place(std::span<const uint32_t> ids);
  void write(io::File& file, std::span<const uint32_t> ids);
  void flush(io::File& file);
  void end_spool(uint64_t val_tokens);
  void open_shard();
  void close_shard();
  void close_hdf5(Open& shard);
  void name_shards();
  fs::path hidden(const std::string& name, const char* suffix) const;
  std::vector<fs::path> hidden_files(std::string_view suffix) const;
  std::vector<fs::path> existing_shards() const;
  void remove_temporaries() const;

  ShardWriterOptions options_;
  uint32_t width_;
  uint64_t documents_ = 0;
  uint64_t tokens_ = 0;  // added
  uint64_t placed_ = 0;  // in shards
  uint64_t val_target_ = 0;
  std::optional<io::File> spool_;
  fs::path spool_path_;
  std::optional<Open> shard_;
  std::vector<std::byte> buffer_;
  std::vector<uint64_t> document_starts_;  // not yet in a closed shard, counted from the first token of all; .h5 only
  std::vector<WrittenShard> written_;
  std::vector<fs::path> temporaries_;  // of written_, in its order
  bool finished_ = false;
};

}  // namespace t6::data
