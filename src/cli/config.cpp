// t6 config help: every key of a config.
#include "cli/command.h"
#include "cli/output.h"
#include "train/run_config.h"

namespace t6::cli {

int print_config_help() {
  print(config_help());
  return 0;
}

void add_config(CLI::App& root, Context& context) {
  CLI::App* group = add_command(root, "config", "about the config of a run", "  t6 config help");
  CLI::App* command =
      add_command(*group, "help", "every key: type, range, default, meaning", "  t6 config help | less");
  command->callback([&context] { context.action = print_config_help; });
}

}  // namespace t6::cli
