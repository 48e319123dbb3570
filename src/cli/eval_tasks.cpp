// t6 eval --tasks: scores on downstream tasks, as a table or as JSON.
#include <omp.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "cli/eval.h"
#include "cli/output.h"
#include "cli/tokenizer_fit.h"
#include "tensor/gpu.h"
#include "train/tasks/prompts.h"
#include "train/tasks/scoring.h"

namespace t6::cli {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kBatchWindows = 4;

struct Scored {
  const train::PreparedTask* task;
  train::TaskScore score;
};

// Mean of what tables show, over tasks with choices. Empty where there is none.
std::optional<double> average(const std::vector<Scored>& all) {
  double sum = 0;
  int count = 0;
  for (const Scored& each : all) {
    if (each.task->name == TaskName::lambada) continue;
    sum += each.score.headline();
    ++count;
  }
  return count > 0 ? std::optional<double>(sum / count) : std::nullopt;
}

void print_table(const std::vector<Scored>& all, const LoadedModel& loaded, const EvalOptions& options) {
  Table table;
  table.column("task", Table::Align::left);
  for (const char* heading : {"items", "acc", "+-", "acc_norm", "+-", "perplexity", "+-"}) table.column(heading);
  const auto percent = [](std::optional<double> value) { return value ? fmt::format("{:.2f}", *value * 100) : ""; };
  const auto number = [](std::optional<double> value) { return value ? fmt::format("{:.2f}", *value) : ""; };
  for (const auto& [task, score] : all) {
    table.row({std::string(name_of(task->name)), format_grouped(score.items), percent(score.acc),
               percent(score.acc_stderr), percent(score.acc_norm), percent(score.acc_norm_stderr),
               number(score.perplexity), number(score.perplexity_stderr)});
  }
  print(label_lines({{"checkpoint", loaded.path.string()},
                     {"step", std::to_string(loaded.step)},
                     {"shots", std::to_string(options.shots)}}) +
        "\n" + table.text());
  if (const std::optional<double> mean = average(all); mean && all.size() > 1) {
    print(fmt::format("\naverage {:.2f} (acc_norm where there is one, else acc; without lambada)\n", *mean * 100));
  }
  if (!options.out.empty()) print(fmt::format("every item: {}\n", options.out));
}

void print_document(const std::vector<Scored>& all, const LoadedModel& loaded, const EvalOptions& options) {
  ordered_json tasks = ordered_json::object();
  for (const auto& [task, score] : all) {
    ordered_json& entry = tasks[std::string(name_of(task->name))] = train::to_json(score);
    entry["file"] = task->path.string();
    entry["file_xxh3"] = task->hash;
  }
  ordered_json document{{"checkpoint", loaded.path.string()},
                        {"step", loaded.step},
                        {"shots", options.shots},
                        {"seed", options.seed},
                        {"limit", options.limit},
                        {"tasks", std::move(tasks)}};
  if (const std::optional<double> mean = average(all)) document["average"] = *mean;
  if (!options.out.empty()) document["out"] = options.out;
  print_json(document);
}

// Of whom items are asked. What is kept also tells where the model was computed: on other devices and numbers of
// threads the same sums are formed in another order, and results of two of them are not the same to the last bit.
ordered_json asked_of(const LoadedModel& loaded, const data::Tokenizer& tokenizer, const EvalOptions& options) {
  ordered_json of{{"checkpoint", manifest_hash(loaded)},
                  {"step", loaded.step},
                  {"tokenizer", tokenizer.hash_text()},
                  {"precision", options.precision == Precision::bf16 ? "bf16" : "f32"}};
  if (options.out.empty()) return of;
  const Device device = loaded.model->parameters().master().device();
  of["device"] = device.is_cuda() ? gpu::info(device.index).name : "cpu";
  if (device.is_cpu()) of["threads"] = omp_get_max_threads();
  return of;
}

}  // namespace

void check_tasks(const EvalOptions& options) {
  for (const TaskName task : options.tasks) {
    if (std::count(options.tasks.begin(), options.tasks.end(), task) > 1) {
      fail(ExitCode::usage, "--tasks: {} is named twice", name_of(task));
    }
  }
  if (options.data.size() != 1) {
    fail(ExitCode::usage, "--tasks needs --data with the one folder of their files, got {}",
         options.data.empty() ? "none" : fmt::format("{}", fmt::join(options.data, " ")));
  }
  if (options.windows >= 0) {
    fail(ExitCode::usage, "--windows is of the validation loss; --limit bounds the items of --tasks");
  }
}

void eval_tasks(const EvalOptions& options, const LoadedModel& loaded, dist::Connection& ranks) {
  const int64_t window = loaded.config.model.context;
  std::vector<train::PreparedTask> tasks;
  train::ScoringOptions scoring{
      .batch_tokens = static_cast<size_t>((options.batch > 0 ? options.batch : kBatchWindows) * window),
      .on_phase = [&](const char* phase) { ranks.control().progress(0, phase); }};
  if (!options.out.empty()) scoring.out = options.out;
  dist::agree(ranks.communicator(), [&] {
    const data::Tokenizer tokenizer = tokenizer_of(loaded, options.run, options.tokenizer);
    for (const TaskName name : options.tasks) {
      tasks.push_back(train::prepare_task(
          name, options.data.front(),
          {.shots = options.shots, .limit = options.limit, .seed = static_cast<uint64_t>(options.seed)}, tokenizer,
          window));
    }
    scoring.of = std::make_shared<const ordered_json>(asked_of(loaded, tokenizer, options));
  });
  const train::ScoredTransformer model(*loaded.model);
  std::vector<Scored> all;
  for (const train::PreparedTask& task : tasks) {
    const std::vector<train::ItemResult> results = score_task(model, task, scoring, ranks.communicator());
    all.push_back({&task, train::score_of(task.name, results)});
  }
  if (!ranks.communicator().is_root()) return;
  options.json ? print_document(all, loaded, options) : print_table(all, loaded, options);
}

}  // namespace t6::cli
