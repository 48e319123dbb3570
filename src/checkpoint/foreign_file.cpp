#include "checkpoint/foreign_file.h"

#include "base/error.h"
#include "base/io.h"

namespace t6::checkpoint {

void require_plain_file(const fs::path& path, uint64_t most) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    fail(ExitCode::checkpoint, "{}: {}", path.string(), fs::exists(path, error) ? "is no file" : "no such file");
  }
  if (const uint64_t bytes = fs::file_size(path, error); error || bytes > most) {
    fail(ExitCode::checkpoint, "{}: larger than {} bytes", path.string(), most);
  }
}

std::string read_plain_file(const fs::path& path, uint64_t most) {
  require_plain_file(path, most);
  return io::read_text(path, most);
}

}  // namespace t6::checkpoint
