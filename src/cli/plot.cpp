// t6 plot: loss curves of runs as an SVG file or in the terminal.
#include "train/plot.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/io.h"
#include "base/progress.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "train/run_folder.h"

namespace t6::cli {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::string out;
  bool terminal = false;
  train::PlotAxis axis = train::PlotAxis::steps;
  std::string title = train::PlotOptions{}.title;
};

int terminal_columns() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40 ? size.ws_col : 100;
}

int run(const Options& options) {
  std::vector<train::Curve> curves;
  for (const std::string& path : options.runs) {
    std::error_code ignored;
    const std::filesystem::path log = train::RunPaths{path}.metrics();
    if (!io::exists(path)) {
      fail(ExitCode::checkpoint,
           "{}: no such run; expected run folders, as t6 train makes them, or their metrics.jsonl", path);
    }
    if (std::filesystem::is_directory(path, ignored) && !io::exists(log)) {
      fail(ExitCode::checkpoint, "{} is no run folder, or of a run without a first step: it holds no {}", path,
           log.filename().string());
    }
    curves.push_back(train::read_curve(path));
  }
  if (!options.out.empty() && !options.out.ends_with(".svg")) {
    fail(ExitCode::usage, "--out: plots are written as SVG; expected a name that ends in .svg, got {}", options.out);
  }
  if (!options.out.empty()) {
    io::write_text_atomically(options.out, train::draw_svg(curves, {.title = options.title, .x = options.axis}));
    print(fmt::format("{}: the curves of {} run{}\n", options.out, curves.size(), curves.size() == 1 ? "" : "s"));
  }
  if (options.terminal || options.out.empty()) {
    const ProgressTerminal error = ProgressTerminal::standard_error();
    const bool color = ::isatty(STDOUT_FILENO) == 1 && error.color;
    print(train::draw_terminal(curves, options.axis, terminal_columns(), 20, color, error.unicode));
  }
  return 0;
}

}  // namespace

void add_plot(CLI::App& root, Context& context) {
  CLI::App* command = add_command(root, "plot", "loss curves of runs, as an SVG file or in the terminal",
                                  "  t6 plot runs/demo_tpa runs/demo_mha --out curves.svg\n"
                                  "  t6 plot runs/demo_tpa --terminal");
  auto options = options_for<Options>(command, context, &run);
  command->add_option("RUN", options->runs, "run folders, or their metrics.jsonl")->required();
  command->add_option("--out", options->out, "SVG file to write")->type_name("FILE");
  command->add_flag("--terminal", options->terminal, "draw here, with characters; so it is without --out");
  command->add_option("--axis", options->axis, "what runs from left to right")
      ->type_name("WHAT")
      ->transform(one_of({"steps", "tokens"}))
      ->default_str("steps");
  command->add_option("--title", options->title, "heading of the SVG")->type_name("TEXT")->capture_default_str();
}

}  // namespace t6::cli
