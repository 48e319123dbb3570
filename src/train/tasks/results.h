// Results of a task, an item a line, in a file that can be gone on with; and what is reported of them.
//
//   {"kind":"t6-scores","version":1,"task":"arc_easy","checkpoint":…,"file":…,"shots":0,…}    what was asked of whom
//   {"item":0,"gold":2,"scores":[-12.5,…],"correct":true,"correct_norm":false,"prompt":"0123456789abcdef"}
// scores: log probability of every choice, nats. The same model, file and settings give the same bytes, on any number
// of ranks and however often it was interrupted, on the same device with as many CPU threads a rank.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "train/append_file.h"
#include "train/tasks/task.h"

namespace t6::train {

struct ItemResult {
  size_t gold = 0;
  std::vector<double> scores;
  bool correct = false;
  std::optional<bool> correct_norm;  // of tasks that have it
  std::string prompt;                // hash of all that was asked
  bool operator==(const ItemResult&) const = default;
};

// What the highest score, and the highest per character, choose; the first of equal ones. lambada: `likeliest`.
ItemResult judge(TaskName task, const Question& question, std::vector<double> scores, bool likeliest);

std::string to_line(size_t item, const ItemResult& result);
// The result of a line that to_line() wrote. Empty when it is none of item `item`.
std::optional<ItemResult> from_line(std::string_view line, size_t item);

struct TaskScore {
  size_t items = 0;
  double acc = 0, acc_stderr = 0;  // of the mean: sqrt(p (1 - p) / (n - 1)); 0 for one item
  std::optional<double> acc_norm, acc_norm_stderr;
  std::optional<double> perplexity, perplexity_stderr;  // lambada: exp of the mean; by the delta method
  // What tables show: acc_norm where there is one.
  double headline() const { return acc_norm.value_or(acc); }
};
TaskScore score_of(TaskName task, std::span<const ItemResult> results);
nlohmann::ordered_json to_json(const TaskScore& score);

// One file of results, which no other process writes meanwhile. For one rank.
class ResultsFile {
 public:
  // Opens `folder`/<task>.jsonl (both made when missing), whose first line is to be `header`. What it holds of
  // `prompts` (hashes by item) is kept in whole blocks of `block` items, a torn end is cut off. Error(data) when it is
  // of another header, naming the first key that differs, or when a line is not what it should be; Error(io) when
  // another process writes it.
  ResultsFile(const std::filesystem::path& folder, TaskName task, const nlohmann::ordered_json& header,
              std::span<const std::string> prompts, size_t block);

  const std::vector<ItemResult>& kept() const { return kept_; }
  // Adds items after those that are there; durable when it returns.
  void append(size_t first_item, std::span<const ItemResult> results);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::vector<ItemResult> kept_;
  std::optional<io::Lock> lock_;
  std::optional<AppendFile> file_;
};

std::filesystem::path results_path(const std::filesystem::path& folder, TaskName task);

// A file of results as it stands, for comparing. Error(data).
struct SavedResults {
  TaskName task{};
  std::optional<size_t> asked;  // how many items there are when it is finished
  std::vector<ItemResult> items;
};
SavedResults parse_results(std::string_view text, const std::string& name);
SavedResults read_results(const std::filesystem::path& path);

}  // namespace t6::train
