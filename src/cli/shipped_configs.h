// The configs that come with the program: one for every attention kind at each parameter budget.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace t6::cli {

// The budgets from the least on: small, medium, large, xl.
const std::vector<std::string>& shipped_sizes();

// Their folder: `given` unless empty; else configs/ here, or above or beside the program. Error(usage) when there is
// none.
std::filesystem::path shipped_configs(const std::string& given);

// Adds `--size`, an index of shipped_sizes(), with the purpose, and `--configs`, their folder.
void add_shipped_size(CLI::App* command, int64_t& size, std::string& folder, const std::string& purpose);

// "t6_<kind>_<size>.yaml"
std::string shipped_config_name(std::string_view kind, std::string_view size);

}  // namespace t6::cli
