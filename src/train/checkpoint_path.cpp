#include "train/checkpoint_path.h"

#include "base/error.h"
#include "train/run_folder.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;

bool is_step(const fs::path& path) {
  return path.filename().string().starts_with("step-");
}

bool holds_steps(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    if (is_step(entry.path())) return true;
  }
  return false;
}

}  // namespace

CheckpointPath find_checkpoints(const std::string& path) {
  std::error_code ignored;
  fs::path folder = fs::path(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (!fs::exists(folder, ignored)) {
    fail(ExitCode::checkpoint, "{}: no such folder; expected a run folder, a folder of checkpoints or one checkpoint",
         path);
  }
  if (fs::exists(folder / "manifest.json", ignored) || is_step(folder)) return {folder, true};
  const RunPaths run{folder};
  if (fs::is_directory(run.checkpoints(), ignored)) return {run.checkpoints(), false};
  if (holds_steps(folder) || folder.filename() == run.checkpoints().filename()) return {folder, false};
  if (fs::exists(run.config(), ignored)) fail(ExitCode::checkpoint, "the run {} has no checkpoint yet", path);
  fail(ExitCode::checkpoint,
       "{} is neither a run folder nor a folder of checkpoints nor one checkpoint: no checkpoints/, no step-... and no "
       "manifest.json is in it",
       path);
}

}  // namespace t6::train
