// Checks of option values; each says what was expected and what came, and stands in the help beside the option.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "train/run_config.h"

namespace t6::cli {

// An integer from min to max. Error text: "expected an integer from 1 to 10, got '0'".
CLI::Validator integer_between(int64_t min, int64_t max);
CLI::Validator integer_from(int64_t min);
// A finite number from min to max; above_min excludes min itself.
CLI::Validator number_between(double min, double max, bool above_min = false);
CLI::Validator number_from(double min);

// One of `names`, for an enum whose enumerators have these names in order from 0.
CLI::Validator one_of(std::vector<std::string> names);

// Adds an option that takes several items, each checked and converted by `item`; T is text, a number or an enum. Commas
// or blanks stand between them, in one word or several, and the option may be given again (join_lists).
template <class T>
CLI::Option* add_list(CLI::App* command, const std::string& name, std::vector<T>& items, const std::string& purpose,
                      const std::string& type, const CLI::Validator& item);

// The words of a command line, those that follow an option of add_list as its items in one word: a list that CLI11
// itself gathers takes positional arguments, too.
std::vector<std::string> join_lists(CLI::App& root, const std::vector<std::string>& words);

// Reads a command line, the program's name first. Error(usage) with what was not understood, what may have been meant
// and where to read on; CLI::CallForHelp, CLI::CallForVersion.
void parse(CLI::App& root, const std::vector<std::string>& words);

// Adds RUN, the checkpoint a command reads.
void add_run(CLI::App* command, std::string& run);

// Adds `--precision f32|bf16`.
void add_precision(CLI::App* command, Precision& precision);
// The same where the config says it otherwise.
void add_precision(CLI::App* command, std::optional<Precision>& precision);

// Adds `--device auto|cpu|cuda`.
void add_device(CLI::App* command, DeviceChoice& device);
// The same where the config says it otherwise.
void add_device(CLI::App* command, std::optional<DeviceChoice>& device);

// The text with \n, \t, \f, \r, \0 and \\ taken as in C. Error(usage) naming `option` for any other escape.
std::string unescape(const std::string& text, const std::string& option);

namespace detail {

// Adds the option; `take` gets every item as `item` converted it.
CLI::Option* add_list(CLI::App* command, const std::string& name, const std::string& purpose, const std::string& type,
                      const CLI::Validator& item, const std::function<void(const std::vector<std::string>&)>& take);

}  // namespace detail

template <class T>
CLI::Option* add_list(CLI::App* command, const std::string& name, std::vector<T>& items, const std::string& purpose,
                      const std::string& type, const CLI::Validator& item) {
  return detail::add_list(command, name, purpose, type, item, [&items](const std::vector<std::string>& words) {
    items.clear();
    for (const std::string& word : words) {
      if constexpr (std::is_same_v<T, std::string>) {
        items.push_back(word);
      } else {
        items.push_back(static_cast<T>(std::stoll(word)));
      }
    }
  });
}

}  // namespace t6::cli
