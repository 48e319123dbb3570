#include "train/tasks/during_training.h"

#include <fmt/format.h>

#include "base/clock.h"
#include "base/format.h"

namespace t6::train {

std::string console_line(const ScoreMetrics& metrics) {
  const TaskScore& score = metrics.score;
  std::string line = fmt::format("step {} | {} acc {:.2f} %", metrics.step, name_of(metrics.task), score.acc * 100);
  if (score.acc_norm) line += fmt::format(" acc_norm {:.2f} %", *score.acc_norm * 100);
  if (score.perplexity) line += fmt::format(" perplexity {:.2f}", *score.perplexity);
  return line + fmt::format(" | {} items in {}", score.items, format_duration(metrics.ms / 1000));
}

TrainingScores::TrainingScores(const RunConfig& config)
    : batch_tokens_(static_cast<size_t>(config.train.micro_batch * config.model.context)) {
  if (config.scores.tasks.empty()) return;
  const data::Tokenizer tokenizer = data::Tokenizer::load(config.data.tokenizer.value());
  const TaskOptions options{.shots = config.scores.shots, .limit = config.scores.limit, .seed = 0};
  for (const TaskName task : config.scores.tasks) {
    tasks_.push_back(prepare_task(task, config.scores.data.value(), options, tokenizer, config.model.context));
  }
}

size_t TrainingScores::tokens() const {
  size_t sum = 0;
  for (const PreparedTask& task : tasks_) {
    for (const ItemSequences& item : task.items) {
      for (const Sequence& sequence : item.sequences) sum += sequence.input.size();
    }
  }
  return sum;
}

std::string TrainingScores::files() const {
  std::string text;
  for (const PreparedTask& task : tasks_) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", name_of(task.name), task.hash);
    if (!task.examples_hash.empty()) text += fmt::format(", examples {}", task.examples_hash);
  }
  return text;
}

void TrainingScores::run(const Transformer& model, int64_t step, dist::Communicator& communicator,
                         const std::function<void(const char*)>& on_phase,
                         const std::function<void(const ScoreMetrics&)>& report) const {
  const ScoredTransformer scored(model);
  for (const PreparedTask& task : tasks_) {
    const double begin = steady_seconds();
    const std::vector<ItemResult> results = score_task(
        scored, task, {.batch_tokens = batch_tokens_, .on_phase = on_phase, .plain_lines = false}, communicator);
    report({.step = step,
            .task = task.name,
            .score = score_of(task.name, results),
            .ms = (steady_seconds() - begin) * 1000});
  }
}

}  // namespace t6::train
