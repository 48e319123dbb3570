// Examples before a question.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "train/tasks/task.h"

namespace t6::train {

// What comes before each of `questions`: its preamble, and `shots` examples of the same subject out of `pool`, or of
// the other questions when that is empty, never the one asked nor one with the same prompts. They are drawn by (seed,
// task, item) alone; mmlu takes the first ones of its pool. The questions and the pool must outlive it.
class Shots {
 public:
  // `source`: the file, for messages.
  Shots(TaskName task, std::span<const Question> questions, std::span<const Question> pool, int64_t shots,
        uint64_t seed, std::string source);

  // Error(data) when there are too few.
  std::string before(size_t item) const;

 private:
  TaskName task_;
  std::span<const Question> questions_, from_;
  bool own_;  // examples come of the questions
  size_t shots_;
  uint64_t seed_;
  std::string source_;
  std::unordered_map<std::string_view, std::vector<size_t>> by_subject_;  // indices of from_, rising
  std::vector<std::string> alike_;                                        // by question: equal where they are twins
  std::unordered_map<std::string, std::vector<size_t>> twins_;            // places in by_subject_ by these, rising
};

}  // namespace t6::train
