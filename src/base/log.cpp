#include "base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <atomic>
#include <cstdlib>

#include "base/error.h"

namespace t6::log {
namespace {

std::atomic<void (*)()> erase_transient{nullptr};
std::atomic<void (*)()> redraw_transient{nullptr};
std::atomic<bool> is_quiet{false};

// Standard error, with the transient line taken away while a log line is written.
class TerminalSink : public spdlog::sinks::ansicolor_stderr_sink_mt {
 public:
  void log(const spdlog::details::log_msg& message) override {
    if (auto clear = erase_transient.load()) clear();
    spdlog::sinks::ansicolor_stderr_sink_mt::log(message);
    if (auto redraw = redraw_transient.load()) redraw();
  }
};

}  // namespace

void start(bool quiet) {
  is_quiet = quiet;
  auto terminal = std::make_shared<TerminalSink>();
  if (const char* no_color = std::getenv("NO_COLOR"); no_color != nullptr && *no_color != '\0') {
    terminal->set_color_mode(spdlog::color_mode::never);
  }
  terminal->set_pattern("%^%H:%M:%S %l:%$ %v");
  auto logger = std::make_shared<spdlog::logger>("t6", terminal);
  // The sink's level, not the logger's: files get every line.
  terminal->set_level(quiet ? spdlog::level::warn : spdlog::level::info);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

bool quiet() {
  return is_quiet;
}

void leave_the_word() {
  is_quiet = true;
  for (const spdlog::sink_ptr& sink : spdlog::default_logger()->sinks()) {
    if (std::dynamic_pointer_cast<TerminalSink>(sink) != nullptr) sink->set_level(spdlog::level::err);
  }
}

void add_file(const std::filesystem::path& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
    sink->set_pattern("%Y-%m-%d %H:%M:%S.%e %l: %v");
    spdlog::default_logger()->sinks().push_back(std::move(sink));
  } catch (const spdlog::spdlog_ex& e) {
    fail(ExitCode::io, "cannot open the log file {}: {}", path.string(), e.what());
  }
}

void error_in_files(std::string_view text) noexcept {
  const spdlog::details::log_msg message("t6", spdlog::level::err, text);
  for (const spdlog::sink_ptr& sink : spdlog::default_logger()->sinks()) {
    if (std::dynamic_pointer_cast<spdlog::sinks::basic_file_sink_mt>(sink) == nullptr) continue;
    try {
      sink->log(message);
      sink->flush();
    } catch (...) {
      // Callers are handling the error that must reach main.
    }
  }
}

void set_transient_line(void (*clear)(), void (*redraw)()) {
  erase_transient = clear;
  redraw_transient = redraw;
}

}  // namespace t6::log
