// The arguments FILE... and key=value... that train, info and bench take a config from.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "train/run_config.h"

namespace t6::cli {

struct ConfigArguments {
  std::vector<std::string> files;  // of --config, one each
  std::vector<std::string> rest;   // key=value, and files that stand without --config

  // Files merged in order, those of --config first, then overrides. Error(usage) with every problem.
  RunConfig load() const;
  std::vector<std::filesystem::path> paths() const;
  void refuse_keys_without_value() const;  // Error(usage) for "train.steps 30"
};

// Adds --config FILE (again for each file) and [key=value...]. The arguments must outlive the parse.
void add_config_arguments(CLI::App* command, ConfigArguments& arguments);

}  // namespace t6::cli
