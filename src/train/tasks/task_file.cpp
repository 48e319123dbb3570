#include "train/tasks/task_file.h"

#include <algorithm>

#include "base/error.h"
#include "base/io.h"
#include "base/printable.h"
#include "data/text_source.h"
#include "train/tasks/row.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 4> kEndings{".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2"};
constexpr std::array<std::string_view, 4> kTextEndings{".txt", ".txt.gz", ".txt.zst", ".txt.bz2"};

bool is_text(const fs::path& path) {
  const std::string name = path.filename().string();
  return std::any_of(kTextEndings.begin(), kTextEndings.end(), [&](auto ending) { return name.ends_with(ending); });
}

// Other names of a data set than the task's own.
std::vector<std::string> names_of(TaskName task) {
  switch (task) {
    case TaskName::arc_easy:
      return {"arc_easy", "ARC-Easy"};
    case TaskName::arc_challenge:
      return {"arc_challenge", "ARC-Challenge"};
    case TaskName::openbookqa:
      return {"openbookqa", "openbook_qa"};
    case TaskName::lambada:
      return {"lambada", "lambada_openai"};
    default:
      return {std::string(name_of(task))};
  }
}

std::optional<fs::path> first_there(TaskName task, const fs::path& folder, const std::vector<std::string>& stems) {
  for (const std::string& stem : stems) {
    for (const std::string_view ending : kEndings) {
      if (io::exists(folder / (stem + std::string(ending)))) return folder / (stem + std::string(ending));
    }
    if (task != TaskName::hellaswag) continue;
    for (const std::string_view ending : kTextEndings) {
      if (io::exists(folder / (stem + std::string(ending)))) return folder / (stem + std::string(ending));
    }
  }
  return std::nullopt;
}

using Splits = std::vector<std::string_view>;

// What lm-evaluation-harness asks comes first. The test sets of some have no answers.
Splits splits_of(TaskName task) {
  switch (task) {
    case TaskName::boolq:
    case TaskName::hellaswag:
    case TaskName::piqa:
    case TaskName::winogrande:
      return {"", "_validation", "_val", "_val_full", "_test"};
    default:
      return {"", "_test", "_validation", "_val", "_val_full"};
  }
}

// Of mmlu the training set is of other data sets, without subjects.
Splits example_splits_of(TaskName task) {
  return task == TaskName::mmlu ? Splits{"_dev", "_train"} : Splits{"_train", "_dev"};
}

// The first split under each of the names, then the next.
std::vector<std::string> with(const std::vector<std::string>& names, const Splits& splits) {
  std::vector<std::string> stems;
  for (const std::string_view split : splits) {
    for (const std::string& name : names) stems.push_back(name + std::string(split));
  }
  return stems;
}

// The line without its end, and what follows it.
std::string_view take_line(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

void require_room(const std::vector<Question>& questions, size_t most, const std::string& name) {
  if (questions.size() < most) return;
  fail(ExitCode::data, "{}: more than {} items, the most that a file of a task may have", name, most);
}

std::string read_whole(const fs::path& path) {
  data::TextSource source(path.string());
  std::string text;
  for (size_t want = std::min<size_t>(source.size().value_or(0) + 1, kMaxTaskBytes);;) {
    const size_t before = text.size();
    text.resize(before + want);
    text.resize(before + source.read(std::span(text).subspan(before)));
    if (text.size() < before + want) return text;
    if (text.size() >= kMaxTaskBytes) {
      fail(ExitCode::data, "{}: its text is longer than {} MiB, the most that a file of a task may have", path.string(),
           kMaxTaskBytes >> 20);
    }
    want = std::min(text.size(), kMaxTaskBytes - text.size());
  }
}

}  // namespace

std::vector<std::string> task_stems(TaskName task) {
  return with(names_of(task), splits_of(task));
}

fs::path find_task(TaskName task, const fs::path& folder) {
  if (!io::exists(folder)) {
    fail(ExitCode::data, "{}: no such folder; expected the one with the files of the tasks", folder.string());
  }
  if (!fs::is_directory(folder)) {
    fail(ExitCode::data, "{} is a file; expected the folder with the files of the tasks", folder.string());
  }
  const std::vector<std::string> stems = task_stems(task);
  if (const std::optional<fs::path> found = first_there(task, folder, stems)) return *found;
  fail(ExitCode::data,
       "task {}: no file of it in {}; looked for {}.jsonl{} (plain, or .gz, .zst, .bz2). docs/scores.md tells where to "
       "get it and "
       "which forms are read",
       name_of(task), folder.string(), fmt::format("{}", fmt::join(stems, ".jsonl, ")),
       task == TaskName::hellaswag ? " and the same with .txt" : "");
}

std::optional<fs::path> find_examples(TaskName task, const fs::path& folder) {
  return first_there(task, folder, with(names_of(task), example_splits_of(task)));
}

std::vector<Question> parse_task(TaskName task, std::string_view text, const std::string& name, size_t most) {
  std::vector<Question> questions;
  RowReader reader(task, name);
  uint64_t number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view line = take_line(rest);
    ++number;
    if (strip(line).empty()) continue;
    require_room(questions, most, name);
    questions.push_back(reader.read(line, number));
  }
  if (questions.empty()) fail(ExitCode::data, "{}: holds no item; expected one JSON object a line", name);
  return questions;
}

std::vector<Question> parse_hellaswag_text(std::string_view text, const std::string& name, size_t most) {
  constexpr size_t kEndingCount = 4;
  std::vector<Question> questions;
  uint64_t number = 0;
  for (std::string_view rest = strip_right(text); !rest.empty();) {
    require_room(questions, most, name);
    const auto line = [&](std::string_view what) {
      ++number;
      const bool there = !rest.empty();
      const std::string_view taken = strip(take_line(rest));
      if (!there || taken.empty()) {
        fail(ExitCode::data,
             "{}:{}: expected {}, got {}; an item is six lines: context, number of the right ending (0 to 3), four "
             "endings",
             name, number, what, there ? "an empty line" : "the end of the file");
      }
      return std::string(taken);
    };
    const std::string context = line("a context"), label = line("the number of the right ending");
    if (label.size() != 1 || label[0] < '0' || label[0] > '3') {
      fail(ExitCode::data, "{}:{}: expected the number of the right ending, 0 to 3, got \"{}\"", name, number,
           printable(label));
    }
    std::vector<std::string> endings;
    for (size_t i = 0; i < kEndingCount; ++i) endings.push_back(line("an ending"));
    questions.push_back(choose(context, endings, static_cast<size_t>(label[0] - '0')));
  }
  if (questions.empty()) fail(ExitCode::data, "{}: holds no item; expected six lines an item", name);
  return questions;
}

TaskFile read_task(TaskName task, const fs::path& path) {
  const std::string text = read_whole(path);
  TaskFile file{path, io::hash_bytes(std::as_bytes(std::span(text))), {}};
  const bool as_text = task == TaskName::hellaswag && is_text(path);
  file.questions = as_text ? parse_hellaswag_text(text, path.string()) : parse_task(task, text, path.string());
  return file;
}

}  // namespace t6::train
