#include "cli/shipped_configs.h"

#include <fmt/format.h>

#include "base/error.h"
#include "cli/arguments.h"

namespace t6::cli {

namespace fs = std::filesystem;

const std::vector<std::string>& shipped_sizes() {
  static const std::vector<std::string> sizes{"small", "medium", "large", "xl"};
  return sizes;
}

fs::path shipped_configs(const std::string& given) {
  if (!given.empty()) return given;
  const std::string one = shipped_config_name("tpa", "small");
  std::vector<fs::path> places{"configs"};
  std::error_code ignored;
  fs::path above = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  for (int i = 0; i < 4 && above.has_relative_path(); ++i, above = above.parent_path()) {
    places.push_back(above / "configs");
    places.push_back(above / "share" / "t6" / "configs");
  }
  for (const fs::path& place : places) {
    if (fs::exists(place / one, ignored)) return place;
  }
  fail(ExitCode::usage,
       "the shipped configs were not found here or beside the program; name their folder: --configs DIR");
}

void add_shipped_size(CLI::App* command, int64_t& size, std::string& folder, const std::string& purpose) {
  command->add_option("--size", size, purpose)
      ->type_name("SIZE")
      ->transform(one_of(shipped_sizes()))
      ->default_str("small");
  command->add_option("--configs", folder, "folder of the shipped configs; without it ./configs or the program's")
      ->type_name("DIR");
}

std::string shipped_config_name(std::string_view kind, std::string_view size) {
  return fmt::format("t6_{}_{}.yaml", kind, size);
}

}  // namespace t6::cli
