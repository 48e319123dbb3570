#include "checkpoint/output_folder.h"

#include "base/config_tree.h"
#include "base/error.h"
#include "base/exchange.h"
#include "base/format.h"
#include "base/log.h"

namespace t6::checkpoint {
namespace {

// Without "." and "..", and without a slash at the end.
fs::path plain(const fs::path& target) {
  std::error_code error;
  fs::path path = fs::absolute(target, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (target.empty() || error || !path.has_filename()) {
    fail(ExitCode::usage, "expected a folder to write to, got '{}'", target.string());
  }
  return path;
}

void require_target(const fs::path& target, bool replace, const OwnEntries& own) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(target, error);
  if (status.type() == fs::file_type::not_found) return;
  if (!fs::is_directory(status)) {
    fail(ExitCode::usage, "{} is no folder; choose another name", target.string());
  }
  if (io::list_folder(target).empty()) return;
  if (!replace) {
    fail(ExitCode::usage, "{} is not empty; choose another name, or replace it as a whole with --force",
         target.string());
  }
  if (!fs::is_regular_file(target / own.mark, error)) {
    fail(ExitCode::usage, "{} is not empty and holds no {}, so --force does not delete it; choose another name",
         target.string(), own.mark);
  }
  for (const std::string& name : io::list_folder(target)) {
    if (own.wrote(fs::directory_entry(target / name, error))) continue;
    fail(ExitCode::usage,
         "{} holds {}, which {} does not write, so --force does not delete the folder; choose another name, or move {} "
         "away",
         target.string(), config::quote(name), own.program, config::quote(name));
  }
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& target, bool replace, const OwnEntries& own, uint64_t bytes)
    : target_(plain(target)) {
  const fs::path parent = target_.parent_path();
  const auto beside = [&](const char* ending) {
    return parent / fmt::format(".{}.t6-{}", target_.filename().string(), ending);
  };
  path_ = beside("new");
  old_ = beside("old");
  lock_path_ = beside("lock");
  io::make_directories(parent);
  lock_ = io::Lock::try_acquire(lock_path_);
  if (!lock_) fail(ExitCode::io, "another process is writing {}", target_.string());
  try {
    // Between the two renames of replace().
    if (io::exists(old_)) {
      if (io::exists(target_)) {
        io::remove_all(old_);
      } else {
        io::rename(old_, target_);
      }
    }
    require_target(target_, replace, own);
    io::remove_all(path_);
    const uint64_t free = io::free_bytes(parent);
    if (free < bytes) {
      fail(ExitCode::io, "{} needs {} bytes ({}), {} are free there", target_.string(), bytes,
           format_bytes(static_cast<double>(bytes)), free);
    }
    io::make_directories(path_);
  } catch (...) {
    std::error_code ignored;
    fs::remove(lock_path_, ignored);
    throw;
  }
}

OutputFolder::~OutputFolder() {
  if (!done_) {
    try {
      io::remove_all(path_);
    } catch (const Error&) {
      // The next one of this name removes it.
    }
  }
  std::error_code ignored;
  fs::remove(lock_path_, ignored);
}

void OutputFolder::add(const std::string& name, std::string_view text) const {
  io::File file = io::File::create_new(path_ / name);
  file.write_all(text);
  file.sync();
  file.close();
}

// Where names cannot be swapped the old folder carries another name between two renames.
fs::path OutputFolder::replace() {
  if (io::exchange(path_, target_)) return path_;
  io::rename(target_, old_);
  try {
    io::rename(path_, target_);
  } catch (...) {
    io::rename(old_, target_);
    throw;
  }
  return old_;
}

void OutputFolder::commit() {
  io::sync_directory(path_);
  fs::path replaced;
  if (io::exists(target_)) {
    replaced = replace();
  } else {
    io::rename(path_, target_);
  }
  done_ = true;
  io::sync_directory(target_.parent_path());
  if (replaced.empty()) return;
  try {
    io::remove_all(replaced);
  } catch (const Error& error) {
    log::warn("what {} replaces is still there: {}", target_.string(), error.what());
  }
}

}  // namespace t6::checkpoint
