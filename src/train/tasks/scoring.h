// Asks a model a whole task: items in blocks, sequences of a block in batches by length, batches in turn over the
// ranks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "dist/communicator.h"
#include "train/tasks/language_model.h"
#include "train/tasks/results.h"
#include "train/tasks/task_file.h"

namespace t6::train {

struct TaskOptions {
  int64_t shots = 0;
  int64_t limit = 0;  // the first items alone; 0: all
  uint64_t seed = 0;  // of the examples
};

// A task as it is asked of a model with this tokenizer and window: everything that can be wrong with it is found here.
struct PreparedTask {
  TaskName name{};
  std::filesystem::path path;
  std::string hash, examples_hash;  // of the files; the second empty without one
  TaskOptions options;
  std::vector<Question> questions;  // the first `limit`, without their texts
  std::vector<std::string> hashes;  // of what is asked, by item
  std::vector<ItemSequences> items;
};
// Reads the files of `task` in `folder` and encodes them. Error(data).
PreparedTask prepare_task(TaskName task, const std::filesystem::path& folder, const TaskOptions& options,
                          const data::Tokenizer& tokenizer, int64_t window);
// The same of a file that is read already; `pool` are examples of another file, or empty.
PreparedTask prepare_task(TaskName task, TaskFile file, std::span<const Question> pool, const TaskOptions& options,
                          const data::Tokenizer& tokenizer, int64_t window);

struct ScoringOptions {
  size_t batch_tokens = 4096;  // computed at a time on a rank
  // Called with the name of what comes next, equally often on all ranks: as evaluate() does.
  std::function<void(const char*)> on_phase = {};
  std::optional<std::filesystem::path> out = {};          // results are kept there and gone on with
  std::shared_ptr<const nlohmann::ordered_json> of = {};  // with `out`: what results of another model differ in
  bool plain_lines = true;                                // progress also where no terminal is
};
inline constexpr size_t kBlockItems = 512;

// Results of every item, in order: the same on all ranks, and bit for bit for any number of them of as many CPU threads
// each. Shows a progress bar with the task's name. Error(numeric) when a score is not finite; Error(data) when ranks
// have read different files, or `out` holds results of something else.
std::vector<ItemResult> score_task(const LanguageModel& model, const PreparedTask& task, const ScoringOptions& options,
                                   dist::Communicator& communicator);

}  // namespace t6::train
