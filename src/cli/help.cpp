#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <thread>
#include <utility>
#include <vector>

#include "base/build_info.h"
#include "base/config_scalar.h"
#include "base/config_tree.h"

namespace t6::cli {
namespace {

constexpr std::array<std::pair<const char*, const char*>, 9> kExitCodes{{
    {"0", "done"},
    {"2", "command line or config"},
    {"3", "data: corpus, tokenizer, shards"},
    {"4", "checkpoint missing, damaged or of another run; run folder in use"},
    {"5", "loss or gradient not finite, or a spike under spikes.action: stop; nothing of that step was applied"},
    {"6", "input or output, a full disk among it; out of memory"},
    {"7", "another rank died, failed or hangs"},
    {"70", "a bug in t6"},
    {"128 + n", "saved after signal n: 130, 138, 143"},
}};

constexpr size_t kColumns = 100;
constexpr size_t kLeft = 30;  // of an option's name with its value

// `text` in lines of kColumns, all but the first indented; `at` columns are taken already.
std::string wrapped(const std::string& text, size_t indent, size_t at) {
  std::string out, word;
  const auto flush = [&] {
    if (word.empty()) return;
    if (at + word.size() > kColumns && at > indent) {
      out.resize(out.find_last_not_of(' ') + 1);
      out += "\n" + std::string(indent, ' ');
      at = indent;
    }
    out += word + " ";
    at += word.size() + 1;
    word.clear();
  };
  for (const char c : text) {
    if (c == ' ') {
      flush();
    } else {
      word += c;
    }
  }
  flush();
  out.resize(out.find_last_not_of(' ') + 1);
  return out;
}

std::string entry(const std::string& left, const std::string& right) {
  std::string out = "  " + left;
  if (out.size() + 2 > kLeft) {
    out += "\n" + std::string(kLeft, ' ');
  } else {
    out.resize(kLeft, ' ');
  }
  return out + wrapped(right, kLeft, kLeft) + "\n";
}

std::string path_of(const CLI::App& command) {
  return command.get_parent() == nullptr ? command.get_name()
                                         : path_of(*command.get_parent()) + " " + command.get_name();
}

// "tokenizer train: " before a message; nothing for the program itself.
std::string speaker_of(const CLI::App& command) {
  return command.get_parent() == nullptr ? "" : path_of(command).substr(path_of(command).find(' ') + 1) + ": ";
}

bool is_help(const CLI::Option& option) {
  return option.get_name() == "--help" || option.check_lname("help");
}

std::string value_word(const CLI::Option& option) {
  if (option.get_items_expected_max() == 0) return {};
  const std::string type = option.get_type_name();
  // A validator's words follow the type after a colon.
  return type.substr(0, type.find(':'));
}

std::string range_words(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const size_t colon = type.find(':');
  return colon == std::string::npos ? std::string() : type.substr(colon + 1);
}

std::string describe(const CLI::Option& option) {
  std::string text = option.get_description();
  std::string notes;
  const auto note = [&](const std::string& words) { notes += (notes.empty() ? "" : "; ") + words; };
  if (const std::string range = range_words(option); !range.empty()) note(range);
  if (option.get_required()) note("required");
  if (const std::string value = option.get_default_str(); !value.empty()) note("default " + value);
  return notes.empty() ? text : text + " (" + notes + ")";
}

std::string usage(const CLI::App& command) {
  std::string line = "Usage: " + path_of(command);
  bool has_options = false;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional()) {
      std::string word = option->get_name(true);
      if (option->get_items_expected_max() > 1) word += "...";
      line += option->get_required() ? " " + word : " [" + word + "]";
    } else if (option->get_required()) {
      line += " " + option->get_name() + " " + value_word(*option);
    } else {
      has_options = true;
    }
  }
  if (!command.get_subcommands([](const CLI::App*) { return true; }).empty()) line += " COMMAND";
  return line + (has_options ? " [options]\n" : "\n");
}

std::string explain_unknown(const CLI::App& command, const std::string& word) {
  const std::string speaker = speaker_of(command);
  std::string message;
  std::string close;
  if (word.starts_with("-")) {
    const std::string name = word.substr(0, word.find('='));
    std::vector<std::string> names;
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& long_name : option->get_lnames()) names.push_back("--" + long_name);
    }
    message = fmt::format("{}there is no option {}", speaker, config::quote(name));
    close = nearest(name, names);
  } else if (const std::vector<std::string> names = subcommand_names(command); !names.empty()) {
    message = fmt::format("{}there is no command {}", speaker, config::quote(word));
    close = nearest(word, names);
  } else {
    message = fmt::format("{}did not expect {}", speaker, config::quote(word));
  }
  if (!close.empty()) message += fmt::format("; did you mean {}?", close);
  return message + fmt::format(" (`{} --help` lists what there is)", path_of(command));
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& names) {
  const std::vector<std::string_view> views(names.begin(), names.end());
  return config::nearest_name(word, views.data(), views.size());
}

std::vector<std::string> subcommand_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* subcommand : command.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(subcommand->get_name());
  }
  return names;
}

std::string help_text(const CLI::App& command) {
  std::string out = fmt::format("{}: {}\n\n{}", path_of(command), command.get_description(), usage(command));
  const auto subcommands = command.get_subcommands([](const CLI::App*) { return true; });
  if (!subcommands.empty()) {
    out += "\nCommands:\n";
    for (const CLI::App* subcommand : subcommands) out += entry(subcommand->get_name(), subcommand->get_description());
  }
  std::string arguments, options, last;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional()) {
      arguments += entry(option->get_name(true), describe(*option));
    } else {
      std::string left = option->get_name(false, true);
      std::replace(left.begin(), left.end(), ',', ' ');
      if (const std::string word = value_word(*option); !word.empty()) left += " " + word;
      (is_help(*option) ? last : options) += entry(left, describe(*option));
    }
  }
  if (!arguments.empty()) out += "\nArguments:\n" + arguments;
  out += "\nOptions:\n" + options + last;
  if (const std::string example = command.get_footer(); !example.empty()) out += "\nExample:\n" + example + "\n";
  if (command.get_parent() == nullptr) {
    out += "\nExit codes:\n";
    for (const auto& [code, meaning] : kExitCodes) out += entry(code, meaning);
  }
  return out;
}

std::string tour() {
  return "t6 trains language models that differ in their attention alone, and compares them.\n\n"
         "From text to a model:\n"
         "  t6 tokenizer train --input book.txt --vocab 4096 --out tokenizer.tiktoken   learn a vocabulary\n"
         "  t6 tokenize --tokenizer tokenizer.tiktoken --out data/book book.txt         turn text into token shards\n"
         "  t6 train --config configs/demo_tpa.yaml 'data.train=data/book_train_*.bin' \\\n"
         "           'data.validation=data/book_val_*.bin' data.tokenizer=tokenizer.tiktoken\n"
         "                                                                              train; run it again to resume\n"
         "  t6 eval runs/demo_tpa                                                       validation loss\n"
         "  t6 generate runs/demo_tpa --prompt \"Once upon a time\"                       let it write\n"
         "\n"
         "Before a long run:\n"
         "  t6 train --config configs/t6_tpa_small.yaml --dry-run    what it would train, its size and its cost\n"
         "  t6 info --all --size small                               all attention kinds side by side\n"
         "  t6 help config                                           every key of a config\n"
         "\n"
         "All commands: t6 --help. One of them: t6 COMMAND --help.\n";
}

std::string version_text() {
  using namespace build_info;
  return fmt::format("t6 {} (commit {})\nbuilt {} by {}, {}\nflags {}\n", version(), commit(), build_type(), compiler(),
                     has_cuda() ? "with CUDA" : "without CUDA", flags());
}

const CLI::App& innermost(const CLI::App& root) {
  const std::vector<CLI::App*> chosen = root.get_subcommands();
  return chosen.empty() ? root : innermost(*chosen.back());
}

std::string explain_missing(const CLI::App& group) {
  return fmt::format("{}expected a command: {} (`{} --help` explains)", speaker_of(group),
                     fmt::join(subcommand_names(group), ", "), path_of(group));
}

std::string explain(const CLI::App& root, const CLI::ParseError& error) {
  // A misspelt option comes before a missing one: it may be the same.
  for (const CLI::App* command = &root;;) {
    const std::vector<std::string> unknown = command->remaining(false);
    if (!unknown.empty()) return explain_unknown(*command, unknown.front());
    const std::vector<CLI::App*> chosen = command->get_subcommands();
    if (chosen.empty()) break;
    command = chosen.back();
  }
  const CLI::App& command = innermost(root);
  // CLI11 tells of an option without its value by the whole of its type, and of one that comes twice by numbers alone.
  std::string what = error.what();
  constexpr std::string_view kOnce = ": At Most 1 required but received ";
  if (const size_t at = what.find(": 1 required "); at != std::string::npos && what.ends_with(" missing")) {
    what = what.substr(0, at) + ": expected a value, got none";
  } else if (const size_t twice = what.find(kOnce); twice != std::string::npos) {
    what = what.substr(0, twice) + ": expected once, got " + what.substr(twice + kOnce.size()) + " times";
  }
  return fmt::format("{}{} (`{} --help` explains)", speaker_of(command), what, path_of(command));
}

}  // namespace t6::cli
