// Token shards in HDF5: where the tokens and document starts of a file lie, and creating such a file.
//
// HDF5 handles only the metadata: the datasets are contiguous, so tokens are read and written by offset. Layout:
//   /tokens        uint16 or uint32, little-endian, 1-D, contiguous, unfiltered
//   /doc_offsets   uint64, 1-D, contiguous: index in /tokens of each document that starts in this shard, ascending
//   attributes of /: vocabulary, end_of_text, token_count, document_count (integers), tokenizer_hash, source (strings)
// Only /tokens must be there; what else is there must be right.
//
// libhdf5 is not safe on hostile or damaged files: some of them crash it or keep it busy for ever. So a file is opened
// in a forked child with limits (base/child.h), which tells what it found; the parent checks that against the file's
// size and never lets the library see the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/io.h"

namespace t6::data {

struct Hdf5Tokens {
  uint64_t tokens_offset = 0;  // in the file, in bytes
  uint64_t token_count = 0;
  uint32_t width = 2;             // bytes a token
  uint64_t documents_offset = 0;  // in the file, in bytes; meaningful when document_count > 0
  uint64_t document_count = 0;
  std::optional<uint64_t> vocabulary;
  std::optional<uint64_t> end_of_text;
  std::string tokenizer_hash = {};
  std::string source = {};
};

// Reads the layout. Error(data) naming the file and what is wrong, also when reading it crashed or met a limit; the
// ranges are checked against the file's size. A few milliseconds; more in a process with much memory, which it copies
// the page tables of.
Hdf5Tokens open_hdf5_tokens(const io::File& file);

// What the child tells, and that read back: nothing when the text is not of that form, or names ranges outside a file
// of `file_size` bytes.
std::string to_told(const Hdf5Tokens& layout);
std::optional<Hdf5Tokens> parse_told(const std::string& text, uint64_t file_size);

// Creates the file with room for token_count tokens and document_count offsets and fills in the two offsets of
// `layout`; the caller writes both datasets in place, through the file returned. token_count > 0. Error(io), also when
// the file exists; a file that is not complete is the caller's to remove.
io::File create_hdf5_tokens(const std::filesystem::path& path, Hdf5Tokens& layout);

}  // namespace t6::data
