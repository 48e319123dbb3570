// From text to token shards: reads a corpus, encodes its documents on worker threads, writes them in order.
//
// The shards are the same, byte for byte, for any number of workers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/corpus_reader.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"

namespace t6::data {

struct TokenizeProgress {
  uint64_t bytes_read = 0;              // of the input files, before decompression
  std::optional<uint64_t> bytes_total;  // unknown for pipes
  uint64_t text_bytes = 0;              // of documents encoded
  uint64_t documents = 0;
  uint64_t empty_documents = 0;  // left out
  uint64_t tokens = 0;           // with the end-of-text ids
  double seconds = 0;
  double text_mb_per_second() const { return seconds > 0 ? static_cast<double>(text_bytes) / 1e6 / seconds : 0; }
};

struct TokenizeOptions {
  CorpusOptions corpus;
  int workers = 0;  // encoding threads; 0: as many as the machine has
  // Called from the calling thread, at most every progress_seconds and once at the end.
  std::function<void(const TokenizeProgress&)> progress;
  double progress_seconds = 0.2;
};

struct TokenizeResult {
  ShardSummary shards;
  TokenizeProgress totals;
};

// Tokenizes `inputs` (paths, or "-" for standard input) into shards. What `output` says about vocabulary, end-of-text,
// tokenizer and source is replaced by what the tokenizer and inputs say. Error(usage) for options that cannot be,
// Error(data) for an empty corpus or a malformed input naming file and line, Error(io). After an Error no shard of this
// call is left.
TokenizeResult tokenize(const std::vector<std::string>& inputs, const Tokenizer& tokenizer, ShardWriterOptions output,
                        const TokenizeOptions& options);

}  // namespace t6::data
