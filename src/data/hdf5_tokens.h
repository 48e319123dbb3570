// Token shards in HDF5: where the tokens and document starts of a file lie, and creating such a file.
//
// HDF5 handles only the metadata: the datasets are contiguous, so tokens are read and written by offset. Layout:
//   /tokens        uint16 or uint32, little-endian, 1-D, contiguous, unfiltered
//   /doc_offsets   uint64, 1-D, contiguous: index in /tokens of each document that starts in this shard, ascending
//   attributes of /: vocabulary, end_of_text, token_count, document_count (integers), tokenizer_hash, source (strings)
// Only /tokens must be there; what else is there must be right. The HDF5 library is not thread-safe: no two of these
// calls, nor other users of HDF5, may run at the same time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/io.h"

namespace t6::data {

// Plain values only, so that a child process can fill it for files that are not trusted.
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

// Reads the layout. Error(data) naming the file and what is wrong; the ranges are checked against the file's size.
Hdf5Tokens open_hdf5_tokens(const io::File& file);

// Creates the file with room for token_count tokens and document_count offsets and fills in the two offsets of
// `layout`; the caller writes both datasets in place, through the file returned. token_count > 0. Error(io), also when
// the file exists; a file that is not complete is the caller's to remove.
io::File create_hdf5_tokens(const std::filesystem::path& path, Hdf5Tokens& layout);

}  // namespace t6::data
