// The bytes of a text file or of standard input, decompressed on the way: plain, gzip, zstd and bzip2, told apart by
// content.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/io.h"

namespace t6::data {

class TextSource {
 public:
  static constexpr size_t kBufferBytes = size_t{256} << 10;
  // `name` is a path, or "-" for standard input. Error(data) when it does not exist or is of a kind that cannot be read
  // (Parquet, UTF-16), Error(io).
  // A raised `interrupt`, which must outlive the source, is as the end of the input. `buffer_bytes`, at least 16, are
  // read from the file at once.
  explicit TextSource(const std::string& name, const io::Interrupt* interrupt = nullptr,
                      size_t buffer_bytes = kBufferBytes);
  ~TextSource();
  TextSource(TextSource&&) noexcept;
  TextSource& operator=(TextSource&&) noexcept;

  // Fills `out` as far as the source goes; less than asked only at the end, 0 from then on. A UTF-8 byte order mark at
  // the start is dropped. Error(data) for damaged or cut-off compressed data, Error(io).
  size_t read(std::span<char> out);

  // The first bytes of the text, up to 64 KiB and up to buffer_bytes, as long as nothing was read.
  std::string_view start() const;

  const std::string& name() const;       // for messages
  uint64_t consumed() const;             // bytes read so far, before decompression
  std::optional<uint64_t> size() const;  // bytes before decompression; empty for a pipe

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace t6::data
