// Scores of a run's tasks while it trains (config section scores).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dist/communicator.h"
#include "model/transformer.h"
#include "train/run_config.h"
#include "train/tasks/scoring.h"

namespace t6::train {

struct ScoreMetrics {
  int64_t step = 0;
  TaskName task{};
  TaskScore score;
  double ms = 0;
};
// step 1200 | arc_easy acc 43.10 % acc_norm 39.62 % | 2376 items in 12.3s
std::string console_line(const ScoreMetrics& metrics);

class TrainingScores {
 public:
  TrainingScores() = default;  // of no task
  // Reads and encodes the tasks' files. Error(data).
  explicit TrainingScores(const RunConfig& config);

  bool any() const { return !tasks_.empty(); }
  size_t tokens() const;      // that the model computes each time
  std::string files() const;  // "arc_easy: 0123456789abcdef, examples ..." for each task: what was read
  // Each task in order, reported as soon as it is done; on every rank alike. `on_phase` as in ScoringOptions.
  void run(const Transformer& model, int64_t step, dist::Communicator& communicator,
           const std::function<void(const char*)>& on_phase,
           const std::function<void(const ScoreMetrics&)>& report) const;

 private:
  std::vector<PreparedTask> tasks_;
  size_t batch_tokens_ = 0;
};

}  // namespace t6::train
