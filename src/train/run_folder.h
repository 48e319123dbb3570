// The folder of a run: who may use it, where things lie in it, and the files that say what the run is.
//
//   resolved.yaml   the whole config, as merged and checked; earlier ones that differed as resolved.yaml.1, .2, ...
//   env.json        program, machine, libraries of the latest start; earlier ones that differed as env.json.1, ...
//   metrics.jsonl   the loss log, and timing.jsonl beside it (train/metrics.h)
//   tensorboard/    event files, one a start
//   checkpoints/    step-N folders (checkpoint/)
//   train.log       what was said on the terminal, with dates
//   run.lock        held while a trainer runs
//   imported.json   in a folder made by t6 import, beside resolved.yaml and checkpoints/
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/io.h"

namespace t6::train {

// Of a run folder that t6 import made: where its weights come from. Nothing is trained in it.
inline constexpr const char* kImportedFile = "imported.json";

// Where things lie; any rank and any command may ask.
struct RunPaths {
  std::filesystem::path root;
  std::filesystem::path config() const { return root / "resolved.yaml"; }
  std::filesystem::path environment() const { return root / "env.json"; }
  std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
  std::filesystem::path timing() const { return root / "timing.jsonl"; }
  std::filesystem::path tensorboard() const { return root / "tensorboard"; }
  std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  std::filesystem::path log() const { return root / "train.log"; }
  std::filesystem::path lock() const { return root / "run.lock"; }
};

// A run folder that this process may write to; on one rank only. The lock ends with the object, or with the process
// however it ends.
class RunFolder {
 public:
  // Creates the folder and its subfolders when missing and locks it. Error(checkpoint) at once when another process
  // holds it, naming the folder and that process; Error(io) when it cannot be made, or when something in it is a
  // symbolic link: a run writes into its own folder alone. A folder made here that no config was written to is gone
  // with the object.
  static RunFolder open(const std::filesystem::path& root);

  const RunPaths& paths() const { return paths_; }

  // From now on log lines also go to train.log, which grows over all starts.
  void start_log() const;
  // Both durable and atomic; an earlier file that says something else is kept under the next free number. Error(io).
  void write_config(std::string_view yaml) const;
  void write_environment(const nlohmann::ordered_json& environment) const;

 private:
  RunFolder(RunPaths paths, io::Lock lock, std::shared_ptr<void> remains)
      : paths_(std::move(paths)), lock_(std::move(lock)), remains_(std::move(remains)) {}

  RunPaths paths_;
  io::Lock lock_;
  std::shared_ptr<void> remains_;  // of a start that failed: removed while the lock is held
};

}  // namespace t6::train
