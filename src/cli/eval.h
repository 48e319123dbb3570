// What t6 eval is asked, and its two answers: validation loss, and scores of tasks.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/loaded_model.h"
#include "dist/connect.h"
#include "train/tasks/task.h"

namespace t6::cli {

struct EvalOptions {
  std::string run;
  std::vector<std::string> data;
  int64_t windows = -1;  // -1: as the config says
  int64_t batch = 0;     // 0: as the config says
  Precision precision = Precision::f32;
  DeviceChoice device = DeviceChoice::automatic;
  std::vector<TaskName> tasks;  // none: validation loss
  std::string tokenizer, out;
  int64_t shots = 0, limit = 0, seed = 0;
  bool json = false;
  dist::RankFlags ranks;
};

// Error(usage) when they cannot be asked so.
void check_tasks(const EvalOptions& options);
// Scores the tasks and prints the table or the JSON document; on every rank.
void eval_tasks(const EvalOptions& options, const LoadedModel& loaded, dist::Connection& ranks);

}  // namespace t6::cli
