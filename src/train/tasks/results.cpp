#include "train/tasks/results.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/io.h"
#include "base/printable.h"
#include "train/tasks/task_file.h"

namespace t6::train {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxResultsBytes = uint64_t{1} << 30;

size_t largest(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

struct Mean {
  double mean = 0, error = 0;
};
// Mean and its standard error, as sample standard deviation over the root of the count.
Mean mean_of(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  const double mean = sum / n;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (n - 1) / n) : 0};
}

// The first key whose value differs, with both.
std::string difference(const Json& there, const Json& here) {
  for (const auto& [key, value] : here.items()) {
    const auto other = there.find(key);
    if (other == there.end()) return fmt::format("it has no \"{}\"", key);
    if (*other != value)
      return fmt::format("\"{}\" is {} there and {} here", key, printable(other->dump()), value.dump());
  }
  return "it has other keys";
}

// The first line of `text`, which is cut off it; none when the line has no end.
std::optional<std::string_view> take_whole_line(std::string_view& text) {
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return line;
}

bool is_header(const Json& json) {
  return json.is_object() && json.value("kind", Json()) == "t6-scores" && json.value("version", Json()) == 1;
}

}  // namespace

ItemResult judge(TaskName task, const Question& question, std::vector<double> scores, bool likeliest) {
  T6_CHECK(scores.size() == question.prompts.size(), "[judge] expected {} scores, got {}", question.prompts.size(),
           scores.size());
  ItemResult result;
  result.gold = question.gold;
  if (task == TaskName::lambada) {
    result.correct = likeliest;
  } else {
    result.correct = largest(scores) == question.gold;
  }
  if (has_norm(task)) {
    std::vector<double> norms;
    for (size_t i = 0; i < scores.size(); ++i) norms.push_back(scores[i] / static_cast<double>(question.lengths[i]));
    result.correct_norm = largest(norms) == question.gold;
  }
  result.scores = std::move(scores);
  return result;
}

std::string to_line(size_t item, const ItemResult& result) {
  Json line;
  line["item"] = item;
  line["gold"] = result.gold;
  line["scores"] = result.scores;
  line["correct"] = result.correct;
  if (result.correct_norm) line["correct_norm"] = *result.correct_norm;
  line["prompt"] = result.prompt;
  return line.dump() + "\n";
}

std::optional<ItemResult> from_line(std::string_view text, size_t item) {
  const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object()) return std::nullopt;
  const auto has = [&](const char* key, auto is) { return line.contains(key) && is(line.at(key)); };
  const auto whole = [](const Json& value) { return value.is_number_unsigned(); };
  const auto truth = [](const Json& value) { return value.is_boolean(); };
  const auto numbers = [](const Json& value) {
    return value.is_array() && !value.empty() && value.size() <= kMaxChoices &&
           std::all_of(value.begin(), value.end(), [](const Json& each) { return each.is_number(); });
  };
  if (!has("item", whole) || line.at("item").get<uint64_t>() != item || !has("gold", whole) ||
      !has("scores", numbers) || line.at("gold").get<uint64_t>() >= line.at("scores").size() ||
      !has("correct", truth) || !has("prompt", [](const Json& value) { return value.is_string(); }) ||
      (line.contains("correct_norm") && !has("correct_norm", truth))) {
    return std::nullopt;
  }
  ItemResult result{.gold = line.at("gold").get<size_t>(),
                    .scores = line.at("scores").get<std::vector<double>>(),
                    .correct = line.at("correct").get<bool>(),
                    .correct_norm = std::nullopt,
                    .prompt = line.at("prompt").get<std::string>()};
  if (line.contains("correct_norm")) result.correct_norm = line.at("correct_norm").get<bool>();
  return result;
}

TaskScore score_of(TaskName task, std::span<const ItemResult> results) {
  T6_CHECK(!results.empty(), "[score_of] expected results, got none");
  std::vector<double> correct, norm, scores;
  for (const ItemResult& result : results) {
    correct.push_back(result.correct ? 1 : 0);
    if (result.correct_norm) norm.push_back(*result.correct_norm ? 1 : 0);
    scores.push_back(result.scores.front());
  }
  TaskScore score;
  score.items = results.size();
  const Mean acc = mean_of(correct);
  score.acc = acc.mean;
  score.acc_stderr = acc.error;
  if (norm.size() == results.size()) {
    const Mean of_norm = mean_of(norm);
    score.acc_norm = of_norm.mean;
    score.acc_norm_stderr = of_norm.error;
  }
  if (task == TaskName::lambada) {
    const Mean log = mean_of(scores);
    score.perplexity = std::exp(-log.mean);
    score.perplexity_stderr = *score.perplexity * log.error;
  }
  return score;
}

Json to_json(const TaskScore& score) {
  Json json;
  json["items"] = score.items;
  json["acc"] = score.acc;
  json["acc_stderr"] = score.acc_stderr;
  if (score.acc_norm) {
    json["acc_norm"] = *score.acc_norm;
    json["acc_norm_stderr"] = *score.acc_norm_stderr;
  }
  if (score.perplexity) {
    json["perplexity"] = *score.perplexity;
    json["perplexity_stderr"] = *score.perplexity_stderr;
  }
  return json;
}

std::filesystem::path results_path(const std::filesystem::path& folder, TaskName task) {
  return folder / (std::string(name_of(task)) + ".jsonl");
}

ResultsFile::ResultsFile(const std::filesystem::path& folder, TaskName task, const Json& header,
                         std::span<const std::string> prompts, size_t block)
    : path_(results_path(folder, task)) {
  io::make_directories(folder);
  lock_ = io::Lock::try_acquire(folder / fmt::format(".{}.lock", name_of(task)));
  if (!lock_) {
    fail(ExitCode::io, "another t6 eval is writing {}; wait for it to end, or choose another --out", path_.string());
  }
  const std::string first = header.dump() + "\n";
  const std::string text = io::exists(path_) ? io::read_text(path_, kMaxResultsBytes) : "";
  std::string kept = first;
  std::string_view rest = text;
  if (const std::optional<std::string_view> line = take_whole_line(rest)) {
    const Json there = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
    if (!is_header(there)) {
      fail(ExitCode::data, "{}: expected results of t6 eval --tasks, got another file; choose another --out",
           path_.string());
    }
    if (there != header) {
      fail(ExitCode::data, "{} holds results of something else: {}. Choose another --out, or delete the file",
           path_.string(), difference(there, header));
    }
    std::vector<std::string_view> lines;
    while (const std::optional<std::string_view> item = take_whole_line(rest)) {
      std::optional<ItemResult> result = from_line(*item, lines.size());
      if (!result || lines.size() >= prompts.size() || result->prompt != prompts[lines.size()]) {
        fail(ExitCode::data, "{}:{}: expected the result of item {}; delete the file and start again", path_.string(),
             lines.size() + 2, lines.size());
      }
      lines.push_back(*item);
      kept_.push_back(std::move(*result));
    }
    if (kept_.size() < prompts.size()) kept_.resize(kept_.size() / block * block);
    for (size_t i = 0; i < kept_.size(); ++i) kept.append(lines[i]).push_back('\n');
  } else if (!rest.empty() && !first.starts_with(rest)) {
    fail(ExitCode::data, "{}: expected results of t6 eval --tasks, got another file; choose another --out",
         path_.string());
  }
  if (kept != text) io::write_text_atomically(path_, kept);
  file_.emplace(path_);
}

void ResultsFile::append(size_t first_item, std::span<const ItemResult> results) {
  std::string lines;
  for (size_t i = 0; i < results.size(); ++i) lines += to_line(first_item + i, results[i]);
  file_->append(lines);
  file_->sync();
}

SavedResults read_results(const std::filesystem::path& path) {
  return parse_results(io::read_text(path, kMaxResultsBytes), path.string());
}

SavedResults parse_results(std::string_view text, const std::string& name) {
  SavedResults saved;
  std::string_view rest = text;
  const Json header = Json::parse(take_whole_line(rest).value_or(""), nullptr, /*allow_exceptions=*/false);
  if (!is_header(header)) fail(ExitCode::data, "{}: expected results of t6 eval --tasks --out, got another file", name);
  const std::string task = header.value("task", Json()).is_string() ? header.at("task").get<std::string>() : "";
  const auto found = std::find(kTaskNames.begin(), kTaskNames.end(), task);
  if (found == kTaskNames.end())
    fail(ExitCode::data, "{}:1: expected the name of a task, got \"{}\"", name, printable(task));
  saved.task = static_cast<TaskName>(found - kTaskNames.begin());
  if (const auto items = header.find("items"); items != header.end() && items->is_number_unsigned()) {
    saved.asked = items->get<size_t>();
  }
  while (const std::optional<std::string_view> line = take_whole_line(rest)) {
    std::optional<ItemResult> result = from_line(*line, saved.items.size());
    if (!result || result->correct_norm.has_value() != has_norm(saved.task)) {
      fail(ExitCode::data, "{}:{}: expected the result of item {}", name, saved.items.size() + 2, saved.items.size());
    }
    saved.items.push_back(std::move(*result));
  }
  return saved;
}

}  // namespace t6::train
