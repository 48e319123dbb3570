// A folder that appears whole under its name or not at all.
//
//   PARENT/.NAME.t6-new    being written
//   PARENT/.NAME.t6-old    being replaced
//   PARENT/.NAME.t6-lock   held meanwhile
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/io.h"

namespace t6::checkpoint {

namespace fs = std::filesystem;

// By what a folder that may be deleted is known.
struct OwnEntries {
  const char* mark;                                 // a file that must be there
  bool (*wrote)(const fs::directory_entry& entry);  // whether such a folder has an entry of this name and type
  const char* program;                              // "t6 export", for messages
};

class OutputFolder {
 public:
  // Takes away what an interrupted one of the same name left, and makes an empty folder beside `target`. Error(usage)
  // when `target` is something else than a folder, or one that is not empty, but that `replace` is set and it holds the
  // mark of `own` and nothing else than own entries; Error(io) when another process is writing it, or when `bytes` are
  // not free.
  OutputFolder(const fs::path& target, bool replace, const OwnEntries& own, uint64_t bytes);
  // What was not committed is removed.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const fs::path& path() const { return path_; }  // to write into; files are closed and fsynced by who writes them
  void add(const std::string& name, std::string_view text) const;
  // Fsyncs the folder and gives it its name; an older one has it until then, or, on file systems that cannot swap
  // names, is put aside for an instant, which the next one of this name mends after a kill. Error(io).
  void commit();

 private:
  // Puts the new folder in the place of an older one, and says where that is now.
  fs::path replace();

  fs::path target_, path_, old_, lock_path_;
  std::optional<io::Lock> lock_;
  bool done_ = false;
};

}  // namespace t6::checkpoint
