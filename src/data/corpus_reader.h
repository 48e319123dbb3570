// Text files cut into documents, block by block: the reading half of tokenizing a corpus.
//
// Documents:
//   text   without a separator every file is one document; with one, the pieces between its occurrences, found from
//          left to right, are. The separator is a literal string ("\f", "\n\n\n", "<|endoftext|>") and belongs to no
//          document.
//   jsonl  one JSON object a line, whose string field `field` is the document; blank lines are skipped.
// A document's bytes stay as they are. Empty documents and those of white space alone are left out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_source.h"

namespace t6::data {

// automatic: jsonl for names ending in .jsonl, .ndjson or .json before any .gz, .zst or .bz2, text for all others.
// Standard input has no name: it is jsonl when its first line is a JSON object with `field` and no separator was given,
// and the log says so; a file that begins like that under another name is text with a warning.
enum class CorpusFormat { automatic, text, jsonl };

struct CorpusOptions {
  CorpusFormat format = CorpusFormat::automatic;
  std::string field = "text";
  std::string separator = {};
  uint64_t max_document_bytes = uint64_t{1} << 30;  // also of a JSON line
  size_t block_bytes = size_t{1} << 20;             // about that of a block; at least 16
};

// Whole documents of one file, not yet taken apart.
struct CorpusBlock {
  std::string source;
  bool jsonl = false;
  uint64_t first_line = 1;  // of the file, jsonl only
  std::string text;         // with padding for the JSON parser after the first `size` bytes
  size_t size = 0;
  std::string_view view() const { return std::string_view(text).substr(0, size); }
};

class CorpusReader {
 public:
  // Inputs are paths or "-" (standard input), read in order. Error(data) when there are none or one does not exist,
  // Error(usage) when the options cannot be.
  CorpusReader(std::vector<std::string> inputs, CorpusOptions options);

  // The next block, or nothing after the last. Error(data), Error(io).
  std::optional<CorpusBlock> next();

  // From any thread: ends a next() that waits for a pipe. What it and later ones return or throw has no meaning.
  void stop() noexcept { interrupt_.raise(); }

  uint64_t bytes_read() const;                                    // before decompression
  std::optional<uint64_t> bytes_total() const { return total_; }  // unknown with a pipe among the inputs
  const CorpusOptions& options() const { return options_; }

 private:
  bool open_next();
  bool is_jsonl(const TextSource& source, bool standard_input) const;
  size_t find_cut(size_t old_size);

  std::vector<std::string> inputs_;
  CorpusOptions options_;
  io::Interrupt interrupt_;
  std::optional<uint64_t> total_;
  size_t next_input_ = 0;
  uint64_t bytes_before_ = 0;  // of the inputs done
  std::optional<TextSource> source_;
  bool jsonl_ = false;
  std::string delimiter_;  // "\n" or the separator; empty: none
  std::string carry_;      // read, but not yet handed out
  size_t cut_ = 0;         // end of the last delimiter found in carry_
  uint64_t line_ = 1;      // of carry_'s first byte
};

// Takes blocks apart; keeps the JSON parser's memory. One for each thread.
class DocumentSplitter {
 public:
  explicit DocumentSplitter(const CorpusOptions& options);
  ~DocumentSplitter();

  // Calls `visit` for each document of the block, in order; returns how many were left out as empty. Error(data) naming
  // file and line for a line that is not a JSON object with that string field.
  uint64_t for_each(const CorpusBlock& block, const std::function<void(std::string_view)>& visit);

 private:
  struct Parser;
  std::string field_;
  std::string separator_;
  std::unique_ptr<Parser> parser_;
};

}  // namespace t6::data
