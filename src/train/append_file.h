// A file that only grows, record by record, and keeps whole records only: the base of metrics.jsonl and of TensorBoard
// files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/io.h"

namespace t6::train {

// A record reaches the operating system before append() returns, so a killed process loses none. When the disk is full,
// the torn record is taken back, records wait in memory (up to kMaxPending bytes) and are written with a later append()
// or sync(): the run goes on and the file has no gap.
class AppendFile {
 public:
  static constexpr size_t kMaxPending = size_t{64} << 20;

  // Opens for appending, creates when missing, durably. Error(io).
  explicit AppendFile(const std::filesystem::path& path);

  // Adds a record. A failing write is a warning in the log, once until writing works again; Error(io) only when more
  // than kMaxPending bytes wait.
  void append(std::string_view record);

  // Writes what waits, then fsync. Error(io) when that is impossible.
  void sync();

  size_t pending_bytes() const { return pending_.size(); }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void write_pending();

  io::File file_;
  uint64_t size_;  // of the file, in whole records
  std::string pending_;
  bool warned_ = false;
};

}  // namespace t6::train
