// Files of tasks: where they lie, and their forms. docs/scores.md lists both.
//
// JSON lines, plain, gzip, zstd or bzip2: rows of the data sets as lm-evaluation-harness loads them, the same inside
// its logged samples ("doc"), the original downloads of ARC, OpenBookQA and BoolQ, and llm-foundry's (query, choices,
// gold; winogrande: context_options, continuation, gold; lambada: context, continuation). HellaSwag also as text: six
// lines an item, the context, the number of the right ending, and four endings.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/tasks/task.h"

namespace t6::train {

struct TaskFile {
  std::filesystem::path path;
  std::string hash;  // XXH3-128 of the text, decompressed
  std::vector<Question> questions;
};

inline constexpr size_t kMaxTaskBytes = size_t{512} << 20;  // of a file's text
inline constexpr size_t kMaxItems = 1'000'000;              // of a file
inline constexpr size_t kMaxChoices = 32;

// The items of a file's text. Error(data) naming `name`, the line, the key and what was expected, or when there are
// more than `most`.
std::vector<Question> parse_task(TaskName task, std::string_view text, const std::string& name,
                                 size_t most = kMaxItems);
std::vector<Question> parse_hellaswag_text(std::string_view text, const std::string& name, size_t most = kMaxItems);

// The file of a task in `folder`, by the first name that is there. Error(data) telling what was looked for.
std::filesystem::path find_task(TaskName task, const std::filesystem::path& folder);
// Its file of examples for few shots, where there is one.
std::optional<std::filesystem::path> find_examples(TaskName task, const std::filesystem::path& folder);
// Names without ending that find_task() tries, in order.
std::vector<std::string> task_stems(TaskName task);

TaskFile read_task(TaskName task, const std::filesystem::path& path);

}  // namespace t6::train
