// Checks of option values; each says what was expected and what came, and stands in the help beside the option.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
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

// Adds `--device auto|cpu|cuda`.
void add_device(CLI::App* command, DeviceChoice& device);
// The same where the config says it otherwise.
void add_device(CLI::App* command, std::optional<DeviceChoice>& device);

// The text with \n, \t, \f, \r, \0 and \\ taken as in C. Error(usage) naming `option` for any other escape.
std::string unescape(const std::string& text, const std::string& option);

}  // namespace t6::cli
