// The help texts, and what is said about a command line that cannot be understood.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace t6::cli {

// Purpose, usage, arguments and options with ranges and defaults, subcommands, example.
std::string help_text(const CLI::App& command);

// What `t6` alone says: the way from text to a trained model in a few commands.
std::string tour();

// "t6 0.1.0 (commit ...)" and how it was built.
std::string version_text();

// The subcommand that was read last, however deep.
const CLI::App& innermost(const CLI::App& root);

// For a group of commands that was given without one of them.
std::string explain_missing(const CLI::App& group);

// One message for a failed parse: what was not understood, the nearest word there is, where to read on.
std::string explain(const CLI::App& root, const CLI::ParseError& error);

}  // namespace t6::cli
