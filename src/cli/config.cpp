// t6 config help: every key of a config, or those of a section.
#include <fmt/format.h>

#include <set>

#include "base/config.h"
#include "base/error.h"
#include "cli/command.h"
#include "cli/help.h"
#include "cli/output.h"
#include "train/run_config.h"

namespace t6::cli {
namespace {

// The keys that are `wanted`, each below the heading of its section. Empty where none is.
template <class Wanted>
std::string table_of(const config::Catalogue& all, const Wanted& wanted) {
  std::set<std::string> sections;
  for (const config::CatalogueEntry& entry : all) {
    if (!entry.is_section && wanted(entry)) sections.insert(entry.section);
  }
  if (sections.empty()) return {};
  config::Catalogue some;
  for (const config::CatalogueEntry& entry : all) {
    if (entry.is_section ? sections.contains(entry.path()) : wanted(entry)) some.push_back(entry);
  }
  const std::string table = config::help_table(some);
  return table.substr(table.find_first_not_of('\n'));
}

}  // namespace

int print_config_help() {
  print(config_help());
  return 0;
}

std::string config_topic_help(const std::string& topic) {
  const config::Catalogue all = config::catalogue(default_config());
  std::string help = table_of(all, [&](const config::CatalogueEntry& entry) {
    return entry.path() == topic || (entry.section + ".").starts_with(topic + ".");
  });
  if (help.empty()) help = table_of(all, [&](const config::CatalogueEntry& entry) { return entry.name == topic; });
  return help;
}

std::vector<std::string> config_topics() {
  std::vector<std::string> topics;
  for (const config::CatalogueEntry& entry : config::catalogue(default_config())) topics.push_back(entry.path());
  return topics;
}

int print_config_help(const std::string& topic) {
  const std::string help = config_topic_help(topic);
  if (help.empty()) {
    const std::string close = nearest(topic, config_topics());
    fail(ExitCode::usage, "config help: a config has neither section nor key {}{} (`t6 config help` lists them)",
         config::quote(topic), close.empty() ? "" : "; did you mean " + close + "?");
  }
  print(help);
  return 0;
}

void add_config(CLI::App& root, Context& context) {
  CLI::App* group = add_command(root, "config", "about the config of a run", "  t6 config help");
  CLI::App* command = add_command(*group, "help", "every key: type, range, default, meaning",
                                  "  t6 config help | less\n  t6 config help optimizer\n  t6 config help train.steps");
  auto topic = std::make_shared<std::string>();
  command->add_option("KEY", *topic, "a section, or a key; without it all");
  command->callback([topic, &context] {
    context.action = [topic] { return topic->empty() ? print_config_help() : print_config_help(*topic); };
  });
}

}  // namespace t6::cli
