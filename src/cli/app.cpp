#include "cli/app.h"

#include <algorithm>

#include "base/config_tree.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/help.h"
#include "cli/launch.h"
#include "cli/output.h"

namespace t6::cli {
namespace {

// t6 help [COMMAND...]: the same as t6 COMMAND --help. t6 help config is the table of keys, t6 help [config] KEY a part
// of it.
int explain_words(const CLI::App& root, const std::vector<std::string>& words) {
  if (words == std::vector<std::string>{"config"}) return print_config_help();
  const CLI::App* about = &root;
  for (const std::string& word : words) {
    const auto found =
        about->get_subcommands([&](const CLI::App* subcommand) { return subcommand->get_name() == word; });
    if (!found.empty()) {
      about = found.front();
      continue;
    }
    const bool may_be_key = about == &root || about->get_name() == "config";
    if (const std::string keys = config_topic_help(word); may_be_key && words.back() == word && !keys.empty()) {
      print(keys);
      return 0;
    }
    std::vector<std::string> names = subcommand_names(*about);
    if (may_be_key) std::ranges::move(config_topics(), std::back_inserter(names));
    const std::string close = nearest(word, names);
    fail(ExitCode::usage,
         "help: there is no command {}{}{} (`t6 --help` lists the commands, `t6 help config` the keys)",
         config::quote(word), may_be_key ? ", nor such a key of a config" : "",
         close.empty() ? "" : "; did you mean " + close + "?");
  }
  print(help_text(*about));
  return 0;
}

void add_help(CLI::App& root, Context& context) {
  CLI::App* command = add_command(root, "help", "explain a command, or keys of a config",
                                  "  t6 help train\n  t6 help config\n  t6 help optimizer\n  t6 help train.steps");
  auto words = std::make_shared<std::vector<std::string>>();
  command->add_option("COMMAND", *words,
                      "whose help; config: the table of every key; a section or a key of a config: that alone");
  command->callback(
      [words, &root, &context] { context.action = [words, &root] { return explain_words(root, *words); }; });
}

// At most one command each, so that a file may be called as a command is.
void set_up(CLI::App& command) {
  command.set_help_flag("-h,--help", "explain this command");
  command.require_subcommand(0, 1);
  for (CLI::App* subcommand : command.get_subcommands([](CLI::App*) { return true; })) set_up(*subcommand);
}

}  // namespace

int run(int argc, char** argv) {
  CLI::App root("trains language models that differ in their attention, and compares them", "t6");
  Context context;
  context.arguments.assign(argv, argv + argc);
  root.footer("  t6                 a short tour\n  t6 train --help");
  root.set_version_flag(
      "--version", [] { return version_text(); }, "version, commit and how it was built");
  add_train(root, context);
  add_launch(root, context);
  add_eval(root, context);
  add_scores(root, context);
  add_generate(root, context);
  add_logits(root, context);
  add_info(root, context);
  add_plot(root, context);
  add_tokenizer(root, context);
  add_tokenize(root, context);
  add_shards(root, context);
  add_checkpoint(root, context);
  add_export(root, context);
  add_import(root, context);
  add_bench(root, context);
  add_plan(root, context);
  add_config(root, context);
  add_help(root, context);
  set_up(root);

  log::start(false);
  try {
    std::vector<std::string> words = context.arguments;
    context.launched = take_launched_command(words);
    parse(root, words);
    if (const std::function<int()> action = context.action) {
      if (context.quiet) log::start(true);
      return action();
    }
  } catch (const CLI::CallForVersion&) {
    print(version_text());
    return 0;
  } catch (const CLI::CallForHelp&) {
    print(help_text(innermost(root)));
    return 0;
  }
  if (argc == 1) {
    print(tour());
    return 0;
  }
  fail(ExitCode::usage, "{}", explain_missing(innermost(root)));
}

}  // namespace t6::cli
