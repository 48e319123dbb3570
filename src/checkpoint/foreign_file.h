// Files that come from elsewhere: opened only when they are plain files of a bounded size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace t6::checkpoint {

namespace fs = std::filesystem;

// Error(checkpoint) naming `path` unless it is a regular file, or a link to one, of at most `most` bytes.
void require_plain_file(const fs::path& path, uint64_t most = UINT64_MAX);
// Its text, after that.
std::string read_plain_file(const fs::path& path, uint64_t most);

}  // namespace t6::checkpoint
