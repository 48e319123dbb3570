// Examples before a question.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "train/tasks/task.h"

namespace t6::train {

// What comes before question `item` of `questions`: its preamble, then `shots` examples. They are drawn without
// replacement, as a function of (seed, task, item) alone, from `pool`; where that is empty from the other questions, never
// the one asked nor one with equal prompts. mmlu: of the same subject, and of a pool the first ones, as the harness does.
// Error(data) naming `source` when there are not enough.
std::string before_question(TaskName task, std::span<const Question> questions, size_t item,
                            std::span<const Question> pool, int64_t shots, uint64_t seed, const std::string& source);

}  // namespace t6::train
