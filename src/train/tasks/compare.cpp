#include "train/tasks/compare.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/format.h"
#include "base/io.h"

namespace t6::train {
namespace {

Comparison compare_pairs(TaskName task, const char* metric, const std::vector<double>& first,
                         const std::vector<double>& second) {
  Comparison comparison{.task = task, .metric = metric, .items = first.size()};
  const auto n = static_cast<double>(first.size());
  for (size_t i = 0; i < first.size(); ++i) {
    comparison.first += first[i] / n;
    comparison.second += second[i] / n;
    comparison.difference += (second[i] - first[i]) / n;
  }
  double squares = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    const double off = second[i] - first[i] - comparison.difference;
    squares += off * off;
  }
  if (first.size() > 1) comparison.stderr_of_it = std::sqrt(squares / (n - 1) / n);
  return comparison;
}

Comparison compare_right(TaskName task, const char* metric, const std::vector<double>& first,
                         const std::vector<double>& second) {
  Comparison comparison = compare_pairs(task, metric, first, second);
  for (size_t i = 0; i < first.size(); ++i) {
    comparison.only_first += first[i] > second[i];
    comparison.only_second += second[i] > first[i];
  }
  comparison.p = sign_test(comparison.only_first, comparison.only_second);
  return comparison;
}

void require_finished(const SavedResults& saved, const std::string& name) {
  if (!saved.asked || saved.items.size() >= *saved.asked) return;
  fail(ExitCode::data, "{} is unfinished: {} of {} items; the same t6 eval again finishes it", name,
       format_grouped(saved.items.size()), format_grouped(*saved.asked));
}

// "A holds piqa, sciq", "A holds none", "A is not there".
std::string held_in(const std::filesystem::path& folder) {
  if (!io::exists(folder)) return fmt::format("{} is not there", folder.string());
  std::vector<std::string_view> tasks;
  for (size_t i = 0; i < kTaskNames.size(); ++i) {
    if (io::exists(results_path(folder, static_cast<TaskName>(i)))) tasks.push_back(kTaskNames[i]);
  }
  return fmt::format("{} holds {}", folder.string(),
                     tasks.empty() ? "none" : fmt::format("{}", fmt::join(tasks, ", ")));
}

}  // namespace

double sign_test(size_t a, size_t b) {
  const auto n = static_cast<double>(a + b);
  double tail = 0;
  for (size_t k = 0; k <= std::min(a, b); ++k) {
    const auto of = static_cast<double>(k);
    tail += std::exp(std::lgamma(n + 1) - std::lgamma(of + 1) - std::lgamma(n - of + 1) - n * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

std::vector<Comparison> compare(const SavedResults& first, const SavedResults& second, const std::string& first_name,
                                const std::string& second_name) {
  require_finished(first, first_name);
  require_finished(second, second_name);
  const size_t items = std::min(first.items.size(), second.items.size());
  if (items == 0) fail(ExitCode::data, "{}: holds no result yet", first.items.empty() ? first_name : second_name);
  std::vector<double> acc[2], norm[2], log[2];
  for (size_t i = 0; i < items; ++i) {
    const ItemResult* pair[2] = {&first.items[i], &second.items[i]};
    if (pair[0]->prompt != pair[1]->prompt || pair[0]->gold != pair[1]->gold) {
      fail(ExitCode::data,
           "item {} was asked another way in {} than in {}: the files of the task, --shots or --seed differ", i,
           second_name, first_name);
    }
    for (int side = 0; side < 2; ++side) {
      acc[side].push_back(pair[side]->correct);
      if (pair[side]->correct_norm) norm[side].push_back(*pair[side]->correct_norm);
      log[side].push_back(pair[side]->scores.front());
    }
  }
  std::vector<Comparison> comparisons;
  if (has_norm(first.task)) comparisons.push_back(compare_right(first.task, "acc_norm", norm[0], norm[1]));
  comparisons.push_back(compare_right(first.task, "acc", acc[0], acc[1]));
  if (first.task == TaskName::lambada) {
    comparisons.push_back(compare_pairs(first.task, "log_probability", log[0], log[1]));
  }
  return comparisons;
}

std::vector<Comparison> compare(const std::filesystem::path& first, const std::filesystem::path& second) {
  std::vector<Comparison> comparisons;
  for (size_t i = 0; i < kTaskNames.size(); ++i) {
    const auto task = static_cast<TaskName>(i);
    const std::filesystem::path paths[2] = {results_path(first, task), results_path(second, task)};
    if (!io::exists(paths[0]) || !io::exists(paths[1])) continue;
    SavedResults saved[2];
    for (int side = 0; side < 2; ++side) {
      saved[side] = read_results(paths[side]);
      if (saved[side].task != task) {
        fail(ExitCode::data, "{}: holds results of {}", paths[side].string(), name_of(saved[side].task));
      }
    }
    for (Comparison& each : compare(saved[0], saved[1], paths[0].string(), paths[1].string())) {
      comparisons.push_back(std::move(each));
    }
  }
  if (comparisons.empty()) {
    fail(ExitCode::data, "no results of the same task: {}; {}. t6 eval RUN --tasks ... --out DIR writes them",
         held_in(first), held_in(second));
  }
  return comparisons;
}

}  // namespace t6::train
