#include "train/run_logs.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace t6::train {
namespace {

void write_curves(TensorBoardWriter& tensorboard, const ScoreMetrics& metrics, const Json& fields) {
  for (const auto& [key, value] : fields.items()) {
    if (key == "items") continue;
    const std::string tag = fmt::format("score/{}/{}", name_of(metrics.task), key);
    tensorboard.scalars(metrics.step, std::vector<TensorBoardWriter::Scalar>{{tag, value.get<double>()}});
  }
}

}  // namespace

RunLogs::RunLogs(const RunPaths& paths, const RunConfig& config, std::optional<int64_t> resumed_step) {
  metrics_.emplace(paths.root, resumed_step);
  if (!config.logging.tensorboard) return;
  tensorboard_.emplace(paths.tensorboard(), resumed_step);
  tensorboard_->text(resumed_step.value_or(0), "config", to_yaml(config));
}

void RunLogs::step(const StepMetrics& metrics, bool on_terminal) {
  if (on_terminal) log::info("{}", console_line(metrics));
  if (metrics_) metrics_->train(metrics);
  if (tensorboard_) tensorboard_->train(metrics);
}

void RunLogs::validation(const ValidationMetrics& metrics) {
  log::info("{}", console_line(metrics));
  if (metrics_) metrics_->validation(metrics);
  if (tensorboard_) tensorboard_->validation(metrics);
}

void RunLogs::score(const ScoreMetrics& metrics) {
  log::info("{}", console_line(metrics));
  const Json fields = to_json(metrics.score);
  if (metrics_) metrics_->score(metrics.step, name_of(metrics.task), fields, metrics.ms);
  if (tensorboard_) write_curves(*tensorboard_, metrics, fields);
}

void RunLogs::event(int64_t step, std::string_view name, const Json& fields) {
  if (metrics_) metrics_->process_event(step, name, fields);
}

void RunLogs::sync() {
  if (metrics_) metrics_->sync();
}

void RunLogs::sync_curves() {
  if (!tensorboard_) return;
  try {
    tensorboard_->sync();
  } catch (const Error& error) {
    log::warn("the last points of the TensorBoard curves are not written: {}", error.what());
  }
}

}  // namespace t6::train
