// What a run says while it trains: the terminal, the loss log (metrics.h) and the curves (tensorboard.h).
#pragma once

#include <optional>
#include <string_view>

#include "train/metrics.h"
#include "train/run_config.h"
#include "train/run_folder.h"
#include "train/tasks/during_training.h"
#include "train/tensorboard.h"

namespace t6::train {

class RunLogs {
 public:
  RunLogs() = default;  // of a rank but 0: no files
  // Opens the files of a run that goes on from `resumed_step`, or starts anew without one. Error(io).
  RunLogs(const RunPaths& paths, const RunConfig& config, std::optional<int64_t> resumed_step);

  void step(const StepMetrics& metrics, bool on_terminal);
  void validation(const ValidationMetrics& metrics);
  void score(const ScoreMetrics& metrics);
  // What happened to the process, for timing.jsonl.
  void event(int64_t step, std::string_view name, const Json& fields);

  // Makes the loss log durable. Error(io) when lines wait because the disk is full.
  void sync();
  // Makes the curves durable; where that fails it is said, and no reason for a run to fail.
  void sync_curves();

 private:
  std::optional<MetricsWriter> metrics_;
  std::optional<TensorBoardWriter> tensorboard_;
};

}  // namespace t6::train
