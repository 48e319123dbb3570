// The subcommands: each file adds one to the command line and leaves behind what main runs when it was chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace t6::cli {

struct Context {
  std::vector<std::string> arguments;  // argv, for env.json
  std::vector<std::string> launched;   // what t6 launch starts
  bool quiet = false;                  // only warnings, errors and results
  std::function<int()> action;         // of the subcommand given; returns the exit code, throws Error
};

void add_train(CLI::App& root, Context& context);
void add_launch(CLI::App& root, Context& context);
void add_eval(CLI::App& root, Context& context);
void add_scores(CLI::App& root, Context& context);
void add_generate(CLI::App& root, Context& context);
void add_logits(CLI::App& root, Context& context);
void add_info(CLI::App& root, Context& context);
void add_bench(CLI::App& root, Context& context);
void add_checkpoint(CLI::App& root, Context& context);
void add_export(CLI::App& root, Context& context);
void add_import(CLI::App& root, Context& context);
void add_tokenizer(CLI::App& root, Context& context);
void add_tokenize(CLI::App& root, Context& context);
void add_shards(CLI::App& root, Context& context);
void add_plan(CLI::App& root, Context& context);
void add_plot(CLI::App& root, Context& context);
void add_config(CLI::App& root, Context& context);

int print_config_help();  // the table of every key of a config

// A subcommand with a one-line purpose and an example that its help ends with.
inline CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& purpose,
                             const std::string& example) {
  CLI::App* command = parent.add_subcommand(name, purpose);
  command->footer(example);
  return command;
}

// Options that live as long as the parse and the action, which is `run` with them.
template <class Options>
std::shared_ptr<Options> options_for(CLI::App* command, Context& context, int (*run)(const Options&)) {
  auto options = std::make_shared<Options>();
  command->callback([options, &context, run] { context.action = [options, run] { return run(*options); }; });
  return options;
}

inline CLI::Option* add_quiet(CLI::App* command, Context& context) {
  return command->add_flag("--quiet", context.quiet, "print warnings, errors and results only");
}

}  // namespace t6::cli
