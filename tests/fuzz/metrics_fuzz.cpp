// The loss log: cut back to a step when a run resumes, and drawn.
#include <cmath>
#include <cstdio>
#include <fstream>

#include "base/io.h"
#include "base/log.h"
#include "fuzz/fuzz_target.h"
#include "train/metrics.h"
#include "train/plot.h"

namespace t6::fuzz {
namespace {

void put(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(text.data(), static_cast<std::streamsize>(text.size()));
}

// The first byte is the step that the run goes on from.
void run_metrics(std::string_view input) {
  static const std::filesystem::path folder = [] {
    spdlog::set_level(spdlog::level::off);
    std::filesystem::create_directories(scratch_folder() / "run");
    return scratch_folder() / "run";
  }();
  if (input.empty()) return;
  const int64_t last_step = static_cast<uint8_t>(input[0]);
  const std::string_view text = input.substr(1);
  put(folder / "metrics.jsonl", text);
  put(folder / "timing.jsonl", text);
  const train::LoggedRun logged = train::read_logged_run(folder);
  require(logged.last_step >= -1 && logged.saved_step.value_or(0) >= 0, "a step below 0");
  const int64_t kept = train::keep_lines_until(folder / "metrics.jsonl", last_step);
  require(kept >= -1 && kept <= last_step, "kept step {} of those until {}", kept, last_step);
  const std::string once = io::read_text(folder / "metrics.jsonl");
  require(once.empty() || once.back() == '\n', "a torn last line");
  require(once.size() <= text.size() + 1, "more than there was");
  require(train::keep_lines_until(folder / "metrics.jsonl", last_step) == kept, "another last step the second time");
  require(io::read_text(folder / "metrics.jsonl") == once, "other lines the second time");
  require(train::read_logged_run(folder).last_step == kept, "another last step when read");
}

void run_curve(std::string_view input) {
  static MemoryFile file;
  std::vector<train::Curve> curves(1);
  if (!accepts({ExitCode::data}, [&] { curves[0] = train::read_curve(file.hold(input)); })) return;
  for (const auto* points : {&curves[0].train, &curves[0].validation}) {
    for (const train::CurvePoint& point : *points) require(std::isfinite(point.loss), "a loss of {}", point.loss);
  }
  for (const train::PlotAxis axis : {train::PlotAxis::steps, train::PlotAxis::tokens}) {
    train::PlotOptions options;
    options.x = axis;
    const std::string drawn = train::draw_svg(curves, options);
    require(drawn.ends_with("</svg>\n"), "the drawing has no end");
    require(drawn.size() < (size_t{1} << 20), "a drawing of {} bytes", drawn.size());
    require(drawn.find("nan") == std::string::npos && drawn.find("inf") == std::string::npos,
            "numbers that are not finite");
    const std::string text = train::draw_terminal(curves, axis, 60, 12, true, true);
    require(text.size() < 65536, "a drawing of {} bytes", text.size());
  }
  std::vector<double> losses;
  for (const train::CurvePoint& point : curves[0].train) losses.push_back(point.loss);
  train::sparkline(losses, 10, false);
}

std::string lines_seed() {
  return "{\"kind\":\"train\",\"step\":1,\"loss\":3.25,\"lr\":0.0006,\"grad_norm\":0.5,\"tokens\":512}\n"
         "{\"kind\":\"validation\",\"step\":1,\"loss\":3.5,\"tokens\":512,\"validation_tokens\":64}\n"
         "{\"kind\":\"process\",\"step\":1,\"event\":\"checkpoint\",\"time\":1.7e9}\n"
         "{\"kind\":\"train\",\"step\":2,\"loss\":3.0,\"tokens\":1024}\n";
}
std::vector<std::string> metrics_seeds() {
  std::vector<std::string> seeds = {lines_seed(), lines_seed() + "{\"kind\":\"tr",
                                    "no json\n{\"step\":-1}\n{\"step\":1e3}\n{\"step\":18446744073709551615}\n",
                                    "[[[[{}]]]]\n\n\r\n{\"step\":3}"};
  for (std::string& seed : seeds) seed.insert(seed.begin(), '\x02');
  return seeds;
}
std::vector<std::string> curve_seeds() {
  return {lines_seed(), lines_seed() + "{\"kind\":\"tr",
          "{\"kind\":\"train\",\"step\":1,\"loss\":1e308,\"tokens\":1}\n{\"kind\":\"train\",\"step\":"
          "9223372036854775807,\"loss\":-1e308}\n",
          "{\"kind\":\"train\",\"step\":-5,\"loss\":5e-324,\"tokens\":18446744073709551615}\n",
          "{\"kind\":\"validation\",\"step\":0,\"loss\":null}\n"};
}

Registered metrics_target({"metrics", "metrics.jsonl and timing.jsonl", &run_metrics, &metrics_seeds, 1024});
Registered curve_target({"curve", "metrics.jsonl, drawn", &run_curve, &curve_seeds, 1024});

}  // namespace
}  // namespace t6::fuzz
