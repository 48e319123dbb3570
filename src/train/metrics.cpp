#include "train/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/format.h"
#include "base/log.h"

namespace t6::train {
namespace {

constexpr uint64_t kMaxLogBytes = uint64_t{4} << 30;

// Milliseconds from a second on with their unit of people: "512 ms", "9.4 ms", "12.3s".
std::string step_time(double ms) {
  if (std::isfinite(ms) && ms >= 0 && ms < 9.95) return fmt::format("{:.1f} ms", ms);
  return std::isfinite(ms) && ms < 9999.5 ? fmt::format("{:.0f} ms", ms) : format_duration(ms / 1e3);
}

// The step of a line, or nothing when it is no object with a whole "step" that is not negative.
std::optional<int64_t> step_of(const Json& json) {
  if (!json.is_object()) return std::nullopt;
  const auto step = json.find("step");
  if (step == json.end() || !step->is_number_unsigned()) return std::nullopt;
  const auto value = step->get<uint64_t>();
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return static_cast<int64_t>(value);
}

// Calls visit(line, step) for each line with a step.
template <class Visit>
void for_each_line(const std::filesystem::path& path, Visit&& visit) {
  if (!io::exists(path)) return;
  const std::string text = io::read_text(path, kMaxLogBytes);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const Json line = Json::parse(std::string_view(text).substr(at, end - at), nullptr, /*allow_exceptions=*/false);
    if (const std::optional<int64_t> step = step_of(line)) visit(line, *step);
    at = end + 1;
  }
}

template <class T>
void put(Json& line, const char* key, const std::optional<T>& value) {
  if (value) line[key] = *value;
}

Json line_of(const char* kind, int64_t step) {
  Json line;
  line["kind"] = kind;
  line["step"] = step;
  return line;
}

// Keys that `line` has already stay as they are.
void add_fields(Json& line, const Json& fields) {
  for (const auto& [key, value] : fields.items()) {
    if (!line.contains(key)) line[key] = value;
  }
}

int64_t open_metrics(const std::filesystem::path& path, std::optional<int64_t> resumed_step) {
  const int64_t last = keep_lines_until(path, resumed_step.value_or(-1));
  if (resumed_step.value_or(0) > 0 && last < 0) {
    log::warn("{} has no lines up to step {}, where the run goes on: the loss log of the steps before is lost",
              path.string(), *resumed_step);
  }
  return last;
}

std::filesystem::path repaired(const std::filesystem::path& path) {
  keep_lines_until(path, std::numeric_limits<int64_t>::max());
  return path;
}

}  // namespace

std::string console_line(const StepMetrics& m) {
  std::string line = m.steps > 0 ? fmt::format("step {}/{}", m.step, m.steps) : fmt::format("step {}", m.step);
  line += fmt::format(" | loss {:.4f} | lr {}", m.loss, format_rate(m.lr));
  if (m.grad_norm) {
    // Two decimals as long as they say something.
    line += *m.grad_norm > 0 && *m.grad_norm < 0.01 ? fmt::format(" | gnorm {:.1e}", *m.grad_norm)
                                                    : fmt::format(" | gnorm {:.2f}", *m.grad_norm);
  }
  if (m.skipped) line += " | skipped";
  if (m.step_ms > 0) line += " | " + step_time(m.step_ms);
  if (m.tokens_per_second) line += fmt::format(" | {} tok/s", format_count(std::round(*m.tokens_per_second)));
  if (m.mfu) line += fmt::format(" | mfu {:.1f}%", *m.mfu * 100);
  if (m.memory_bytes) line += " | mem " + format_memory(*m.memory_bytes);
  line += fmt::format(" | {} tok", format_billions(static_cast<double>(m.tokens_seen)));
  if (m.eta_seconds && m.step < m.steps) line += " | eta " + format_duration(*m.eta_seconds);
  return line;
}

std::string console_line(const ValidationMetrics& m) {
  std::string line =
      fmt::format("step {} | validation loss {:.4f} | perplexity {:.2f}", m.step, m.loss, std::exp(m.loss));
  if (m.validation_tokens > 0)
    line += fmt::format(" | {} tok", format_billions(static_cast<double>(m.validation_tokens)));
  if (m.ms > 0) line += fmt::format("{}{}", m.validation_tokens > 0 ? " in " : " | ", step_time(m.ms));
  return line;
}

int64_t keep_lines_until(const std::filesystem::path& path, int64_t last_step) {
  if (!io::exists(path)) return -1;
  const std::string text = io::read_text(path, kMaxLogBytes);
  std::string kept;
  int64_t last_kept = -1;
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    ++number;
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    const std::optional<int64_t> step = step_of(Json::parse(line, nullptr, /*allow_exceptions=*/false));
    if (!step && at < text.size()) {
      log::warn("{}:{}: expected a JSON object with a step, got '{}'; the line is removed", path.string(), number,
                line.substr(0, 40));
    }
    if (!step || *step > last_step) continue;
    kept.append(line).push_back('\n');
    last_kept = *step;
  }
  if (kept != text) io::write_text_atomically(path, kept);
  return last_kept;
}

LoggedRun read_logged_run(const std::filesystem::path& folder) {
  LoggedRun logged;
  for_each_line(folder / "metrics.jsonl", [&](const Json&, int64_t step) { logged.last_step = step; });
  for_each_line(folder / "timing.jsonl", [&](const Json& line, int64_t step) {
    const auto event = line.find("event");
    if (event != line.end() && *event == "checkpoint") logged.saved_step = step;
  });
  return logged;
}

MetricsWriter::MetricsWriter(const std::filesystem::path& folder, std::optional<int64_t> resumed_step)
    : last_step_(open_metrics(folder / "metrics.jsonl", resumed_step)),
      metrics_(folder / "metrics.jsonl"),
      timing_(repaired(folder / "timing.jsonl")) {}

void MetricsWriter::write(AppendFile& file, const Json& line) {
  // Text that is not UTF-8 (a file name in a reason) must not end a run.
  file.append(line.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n');
  if (&file == &metrics_) last_step_ = line.at("step").get<int64_t>();
}

void MetricsWriter::train(const StepMetrics& m) {
  Json line = line_of("train", m.step);
  line["loss"] = m.loss;
  line["lr"] = m.lr;
  put(line, "grad_norm", m.grad_norm);
  put(line, "clip", m.clip);
  line["tokens"] = m.tokens_seen;
  if (!m.data_hash.empty()) line["data_hash"] = m.data_hash;
  if (m.spike) line["spike"] = true;
  if (m.skipped) line["skipped"] = true;
  write(metrics_, line);

  Json timing = line_of("train", m.step);
  timing["ms"] = m.step_ms;
  put(timing, "tokens_per_second", m.tokens_per_second);
  put(timing, "mfu", m.mfu);
  put(timing, "memory", m.memory_bytes);
  timing["time"] = unix_seconds();
  write(timing_, timing);
}

void MetricsWriter::validation(const ValidationMetrics& m) {
  Json line = line_of("validation", m.step);
  line["loss"] = m.loss;
  line["tokens"] = m.tokens_seen;
  line["validation_tokens"] = m.validation_tokens;
  write(metrics_, line);

  Json timing = line_of("validation", m.step);
  timing["ms"] = m.ms;
  timing["time"] = unix_seconds();
  write(timing_, timing);
}

void MetricsWriter::score(int64_t step, std::string_view task, const Json& score, double ms) {
  Json line = line_of("score", step);
  line["task"] = task;
  add_fields(line, score);
  write(metrics_, line);

  Json timing = line_of("score", step);
  timing["task"] = task;
  timing["ms"] = ms;
  timing["time"] = unix_seconds();
  write(timing_, timing);
}

void MetricsWriter::process_event(int64_t step, std::string_view name, const Json& fields) {
  Json line = line_of("process", step);
  line["event"] = name;
  add_fields(line, fields);
  line["time"] = unix_seconds();
  write(timing_, line);
}

void MetricsWriter::sync() {
  metrics_.sync();
  timing_.sync();
}

}  // namespace t6::train
