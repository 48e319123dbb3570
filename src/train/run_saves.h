// The checkpoints of a run in its loop: one begins when it is due, ends when all ranks have written their files, and a
// few may fail.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "dist/communicator.h"
#include "train/run_logs.h"
#include "train/saver.h"
#include "train/step.h"

namespace t6::train {

// The ranks of `communicator`, which outlives them, as those that save and load together.
checkpoint::Peers peers_of(dist::Communicator& communicator);

// Every rank has one, and calls its methods at the same places with the same arguments but `state`.
class RunSaves {
 public:
  struct Options {
    std::filesystem::path folder;  // of the checkpoints
    checkpoint::SaveOptions save;
    bool async = true;                                // written beside the training
    std::optional<int64_t> resumed_step;              // is saved already
    std::function<void(const char* phase)> progress;  // called before what takes time
  };
  // communicator and logs outlive it.
  RunSaves(dist::Communicator& communicator, RunLogs& logs, Options options);

  // Saves what `state` gives, which is called when there is something to save, as `step`. After the last step of the
  // run, or when nothing is to be written beside the training, the checkpoint is there when it returns. A save that
  // fails leaves the older checkpoints and lets the run go on: Error(io) after three in a row, and where the last one
  // of the run fails. The loss log reaches the disk before the checkpoint gets its name.
  void save(int64_t step, bool last, const std::function<checkpoint::State()>& state);
  // Gives the checkpoint under way its name once all ranks voted, in a step after it was begun, that their files are
  // written. Errors as save().
  void complete_if_written(int64_t step, std::span<const Vote> votes);
  // Waits for the checkpoint under way. Errors as save().
  void complete(bool last = false);

  Saver::Status status() const { return saver_.status(); }                        // of this rank's file
  const std::optional<std::filesystem::path>& newest() const { return newest_; }  // saved by this process
  double slowest() const { return slowest_; }                                     // seconds; 0: none yet

 private:
  void start(int64_t step, const checkpoint::State& state);
  void finish();
  void failed(int64_t step, bool last, const Error& error);

  dist::Communicator& communicator_;
  RunLogs& logs_;
  Options options_;
  Saver saver_;
  std::optional<int64_t> last_saved_;
  std::optional<std::filesystem::path> newest_;
  int failures_ = 0;  // in a row
  double began_ = 0, slowest_ = 0;
};

}  // namespace t6::train
