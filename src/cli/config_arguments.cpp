#include "cli/config_arguments.h"

#include "base/error.h"

namespace t6::cli {
namespace {

// A key is letters, digits, '_' and '.' before the first '='; anything else is a path.
bool is_override(const std::string& word) {
  const size_t equals = word.find('=');
  return equals != std::string::npos && word.find('/') >= equals;
}

}  // namespace

std::vector<std::filesystem::path> ConfigArguments::paths() const {
  std::vector<std::filesystem::path> all(files.begin(), files.end());
  for (const std::string& word : rest) {
    if (!is_override(word)) all.emplace_back(word);
  }
  return all;
}

RunConfig ConfigArguments::load() const {
  const std::vector<std::filesystem::path> all = paths();
  if (all.empty()) {
    fail(ExitCode::usage, "expected a config file, got none; for example --config configs/demo_tpa.yaml");
  }
  std::vector<std::string> overrides;
  for (const std::string& word : rest) {
    if (is_override(word)) overrides.push_back(word);
  }
  return load_run_config(all, overrides);
}

void add_config_arguments(CLI::App* command, ConfigArguments& arguments) {
  command->add_option("--config", arguments.files, "YAML file; give the option again to merge another over it")
      ->type_name("FILE")
      ->allow_extra_args(false);
  command->add_option("KEY=VALUE", arguments.rest, "change a key of the config: train.steps=500");
}

}  // namespace t6::cli
