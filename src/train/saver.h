// The checkpoints of a run, written beside the training.
//
// start() copies the state to host memory and has a thread write this rank's file; training goes on. When every rank
// has written its file, which they tell each other with each step's vote, complete() gives the checkpoint its name. All
// ranks call start() and complete() at the same places.
#pragma once

#include <atomic>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include "checkpoint/checkpoint.h"

namespace t6::train {

class Saver {
 public:
  enum class Status : int32_t { idle, writing, written };

  // asynchronous false: start() returns when the file is written.
  Saver(std::filesystem::path folder, checkpoint::SaveOptions options, checkpoint::Peers peers, bool asynchronous);
  // Waits for the thread. What it wrote stays temporary.
  ~Saver();
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  // Error(io), alike on all ranks, when there is no room; then nothing is under way. What fails on one rank alone, for
  // want of memory or of a thread, is told by complete().
  void start(int64_t step, const checkpoint::State& state);
  // Of this rank's file.
  Status status() const { return status_; }
  std::optional<int64_t> step() const { return step_; }  // of the save under way
  // Waits until this rank's file is written. Error(io), alike on all ranks, when any rank could not write; nothing is
  // under way afterwards.
  checkpoint::Saved complete();

 private:
  std::filesystem::path folder_;
  checkpoint::SaveOptions options_;
  checkpoint::Peers peers_;
  bool asynchronous_;
  std::optional<int64_t> step_;
  std::atomic<Status> status_ = Status::idle;
  std::string report_;
  std::thread thread_;
};

}  // namespace t6::train
