// t6 scores: what was written by t6 eval --tasks --out, compared.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "cli/command.h"
#include "cli/output.h"
#include "train/tasks/compare.h"

namespace t6::cli {
namespace {

struct Options {
  std::string first, second;
  bool json = false;
};

int run(const Options& options) {
  const std::vector<train::Comparison> comparisons = train::compare(options.first, options.second);
  if (options.json) {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const train::Comparison& each : comparisons) {
      rows.push_back({{"task", name_of(each.task)},
                      {"metric", each.metric},
                      {"items", each.items},
                      {"first", each.first},
                      {"second", each.second},
                      {"difference", each.difference},
                      {"stderr", each.stderr_of_it},
                      {"only_first", each.only_first},
                      {"only_second", each.only_second},
                      {"p", each.p}});
    }
    print_json({{"first", options.first}, {"second", options.second}, {"comparisons", std::move(rows)}});
    return 0;
  }
  Table table;
  table.column("task", Table::Align::left);
  table.column("metric", Table::Align::left);
  for (const char* heading : {"items", "A", "B", "B - A", "+-", "only A", "only B", "p"}) table.column(heading);
  for (const train::Comparison& each : comparisons) {
    const bool nats = each.metric == "log_probability";
    const auto value = [&](double x) { return fmt::format("{:.2f}", nats ? x : 100 * x); };
    table.row({std::string(name_of(each.task)), each.metric, format_grouped(each.items), value(each.first),
               value(each.second), fmt::format("{:+.2f}", nats ? each.difference : 100 * each.difference),
               value(each.stderr_of_it), nats ? "" : format_grouped(each.only_first),
               nats ? "" : format_grouped(each.only_second), nats ? "" : fmt::format("{:.3f}", each.p)});
  }
  print(label_lines({{"A", options.first}, {"B", options.second}}) + "\n" + table.text() +
        "\n+- is the standard error of the paired difference; only A, only B: items that one alone has right;\n"
        "p: that a split as uneven comes by chance (exact McNemar test). Percent, log_probability in nats.\n");
  return 0;
}

}  // namespace

void add_scores(CLI::App& root, Context& context) {
  CLI::App* scores = add_command(root, "scores", "compare what t6 eval --tasks --out wrote of two models",
                                 "  t6 scores compare scores/demo_tpa scores/demo_mha");
  CLI::App* command =
      add_command(*scores, "compare", "two models on the same items, pair by pair",
                  "  t6 eval runs/demo_tpa --tasks arc_easy,lambada --data tasks --out scores/demo_tpa\n"
                  "  t6 eval runs/demo_mha --tasks arc_easy,lambada --data tasks --out scores/demo_mha\n"
                  "  t6 scores compare scores/demo_tpa scores/demo_mha");
  auto options = options_for<Options>(command, context, &run);
  command->add_option("A", options->first, "folder of one model's results")->required();
  command->add_option("B", options->second, "folder of the other's")->required();
  command->add_flag("--json", options->json, "print one JSON document");
  add_quiet(command, context);
}

}  // namespace t6::cli
