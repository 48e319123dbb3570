// The commit protocol on a folder of checkpoints, apart from what a checkpoint holds: names, commit, clean-up,
// retention.
//
// With several ranks: rank 0 calls make_temporary, all ranks write their file into that folder, rank 0 gathers what
// they report, then calls commit (or abandon when one failed) and retain.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"

namespace t6::checkpoint {

std::string step_name(int64_t step);                         // "step-00001200"
fs::path temporary_path(const fs::path& dir, int64_t step);  // DIR/.tmp-step-00001200
int64_t step_of(const std::string& name);                    // of a step_name; -1 for any other

struct StepPath {
  int64_t step = 0;
  fs::path path;
};
// What carries a final name in `dir`, oldest first; nothing when `dir` is missing. Error(io) when it cannot be read.
std::vector<StepPath> step_paths(const fs::path& dir);

// Removes every .tmp and .trash, puts back an .old whose replacement did not arrive. Error(io).
void clean_folder(const fs::path& dir);

// Makes an empty temporary folder for `step` and returns its path. Error(io).
fs::path make_temporary(const fs::path& dir, int64_t step);
// Writes and syncs the manifest into the temporary folder, whose payload files are closed and synced, syncs the folder,
// renames it to its final name and syncs `dir`. A checkpoint of that step is replaced; warnings: what is left of it.
// Error(io).
std::vector<std::string> commit(const fs::path& dir, int64_t step, const std::string& manifest_text);
// Removes the temporary folder as far as possible.
void abandon(const fs::path& dir, int64_t step) noexcept;

// A checkpoint that must be read before it can be said what `retention` keeps after a save of `step`: one that would be
// counted and of which nothing is known (intact.h), but for those in `read`, which could not be judged. Empty: none.
fs::path unread(const fs::path& dir, int64_t step, const Retention& retention, const std::set<fs::path>& read);
// Deletes what `retention` does not keep after a save of `step`, which is intact; warnings: a failure, and once a
// process each damaged checkpoint that was met. What is not known to be intact is neither counted nor deleted.
std::vector<std::string> retain(const fs::path& dir, int64_t step, const Retention& retention);

}  // namespace t6::checkpoint
