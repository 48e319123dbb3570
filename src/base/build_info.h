// What this program was built from and how; filled in by CMake (cmake/T6BuildInfo.cmake).
#pragma once

#include <string_view>

namespace t6::build_info {

std::string_view version();  // "0.1.0"
// Git commit when CMake was last run, with "-dirty" when tracked files differed from it; "unknown" outside a git
// checkout.
std::string_view commit();
std::string_view compiler();    // "GNU 12.2.0"
std::string_view flags();       // of this project's C++ files, without those of found packages
std::string_view build_type();  // "Release"
bool has_cuda();

}  // namespace t6::build_info
