// The help texts, and what is said about a command line that cannot be understood.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace t6::cli {

// Purpose, usage, arguments and options with ranges and defaults, subcommands, example.
std::string help_text(const CLI::App& command);

// What `t6` alone says: the way from text to a trained model in a few commands.
std::string tour();

// The keys of a config that a topic names, each below the heading of its section: a section with what is below it
// ("optimizer", "model.tpa"), one key ("train.steps"), or every key of a name ("steps"). Empty where there is none.
std::string config_topic_help(const std::string& topic);
// Prints it. Error(usage) with the nearest name where there is none.
int print_config_help(const std::string& topic);
// Every section and key.
std::vector<std::string> config_topics();

// "t6 0.1.0 (commit ...)" and how it was built.
std::string version_text();

// The name that `word` is a misspelling of; nothing when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& names);

// The names of the subcommands of a command.
std::vector<std::string> subcommand_names(const CLI::App& command);

// The subcommand that was read last, however deep.
const CLI::App& innermost(const CLI::App& root);

// For a group of commands that was given without one of them.
std::string explain_missing(const CLI::App& group);

// One message for a failed parse: what was not understood, the nearest word there is, where to read on.
std::string explain(const CLI::App& root, const CLI::ParseError& error);

}  // namespace t6::cli
