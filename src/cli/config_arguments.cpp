#include "cli/config_arguments.h"

#include <algorithm>

#include "base/error.h"
#include "train/run_folder.h"

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

// A key whose value came as a word of its own, or not at all, is no config file.
void ConfigArguments::refuse_keys_without_value() const {
  std::error_code ignored;
  const config::Catalogue keys = config::catalogue(default_config());
  for (size_t i = 0; i < rest.size(); ++i) {
    const auto is_key = [&](const config::CatalogueEntry& key) { return !key.is_section && key.path() == rest[i]; };
    if (std::filesystem::exists(rest[i], ignored) || std::none_of(keys.begin(), keys.end(), is_key)) continue;
    const bool has_value = i + 1 < rest.size() && !is_override(rest[i + 1]);
    fail(ExitCode::usage, "{} is a key of the config and needs `=` and a value in the same word: {}={}", rest[i],
         rest[i], has_value ? rest[i + 1] : "VALUE");
  }
}

RunConfig ConfigArguments::load() const {
  refuse_keys_without_value();
  const std::vector<std::filesystem::path> all = paths();
  if (all.empty()) {
    fail(ExitCode::usage, "expected a config file, got none; for example --config configs/demo_tpa.yaml");
  }
  for (const std::filesystem::path& path : all) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(path, ignored)) continue;
    const std::filesystem::path config = train::RunPaths{path}.config();
    fail(ExitCode::usage, "{}: expected a config file, got a folder{}", path.string(),
         std::filesystem::exists(config, ignored) ? "; the config of this run is " + config.string() : "");
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
