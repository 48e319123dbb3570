#include "train/append_file.h"

#include "base/error.h"
#include "base/format.h"
#include "base/log.h"

namespace t6::train {

AppendFile::AppendFile(const std::filesystem::path& path) : file_(io::File::open_append(path)), size_(file_.size()) {
  // Perhaps made just now, or just before a kill: then its name is not durable yet.
  if (size_ == 0) io::sync_directory(io::parent_of(path));
}

void AppendFile::write_pending() {
  if (pending_.empty()) return;
  // An earlier failure may have left a part of a record.
  if (file_.size() != size_) file_.truncate(size_);
  file_.write_all(pending_);
  size_ += pending_.size();
  pending_.clear();
}

void AppendFile::append(std::string_view record) {
  pending_ += record;
  try {
    write_pending();
    if (warned_) log::info("writing to {} works again; nothing is missing in it", path().string());
    warned_ = false;
  } catch (const Error& error) {
    if (pending_.size() > kMaxPending) {
      fail(ExitCode::io, "{} ({} wait to be written; free some space and start again)", error.what(),
           format_bytes(static_cast<double>(pending_.size())));
    }
    if (!warned_) log::warn("{}; going on, and trying again with the next record", error.what());
    warned_ = true;
  }
}

void AppendFile::sync() {
  write_pending();
  file_.sync();
}

}  // namespace t6::train
