// The trainer under injected faults: `driver train --config F [section.key=value...]` does what t6 train does, and
// environment variables make disk calls fail or end the process.
//
//   T6_COUNT_CALLS=FILE   writes the number of disk calls into FILE at the end
//   T6_DIE_AT_CALL=N      ends the process, as a kill does, instead of disk call N (from 1); with T6_TORN=1 half of
//                         what call N was to write is there first
//   T6_FULL=A-B           after A attempts to write to metrics.jsonl and until B have been made the disk is full: every
//                         write and every new file fails
//   T6_FULL_IN=PART       only where PART is in the path
//   T6_FREE_BYTES=N       what the file system says is free
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/io.h"
#include "base/log.h"
#include "train/trainer.h"

namespace {

using t6::io::DiskCall;

uint64_t number_of(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : 0;
}

struct Faults {
  uint64_t die_at = number_of("T6_DIE_AT_CALL");
  bool torn = number_of("T6_TORN") != 0;
  uint64_t full_from = 0, full_to = 0;
  uint64_t calls = 0, metrics_writes = 0;

  std::string full_in;

  Faults() {
    const char* full = std::getenv("T6_FULL");
    const char* part = std::getenv("T6_FULL_IN");
    if (part != nullptr) full_in = part;
    if (full != nullptr) std::sscanf(full, "%lu-%lu", &full_from, &full_to);
  }

  int operator()(DiskCall call, const std::filesystem::path& path, size_t& bytes) {
    ++calls;
    if (die_at != 0 && torn && call == DiskCall::write && calls == die_at && bytes > 1) {
      bytes /= 2;
      ++die_at;
    }
    if (calls == die_at) ::_exit(137);
    const bool full =
        metrics_writes >= full_from && metrics_writes < full_to && path.string().find(full_in) != std::string::npos;
    if (call == DiskCall::write && path.filename() == "metrics.jsonl") ++metrics_writes;
    return full && (call == DiskCall::write || call == DiskCall::create) ? ENOSPC : 0;
  }
};

Faults faults;

int train(const std::vector<std::string>& arguments) {
  std::vector<std::filesystem::path> files;
  std::vector<std::string> overrides;
  for (size_t i = 2; i < arguments.size(); ++i) {
    if (arguments[i] == "--config") {
      files.emplace_back(arguments.at(++i));
    } else {
      overrides.push_back(arguments[i]);
    }
  }
  return t6::train::exit_code(t6::train::Trainer(t6::load_run_config(files, overrides), arguments).run());
}

}  // namespace

// Takes the C library's place for the whole program.
extern "C" int statvfs(const char* path, struct statvfs* status) {
  const int folder = ::open(path, O_RDONLY | O_CLOEXEC);
  if (folder < 0) return -1;
  const int result = ::fstatvfs(folder, status);
  ::close(folder);
  if (std::getenv("T6_FREE_BYTES") != nullptr) {
    status->f_frsize = 1;
    status->f_bavail = number_of("T6_FREE_BYTES");
  }
  return result;
}

int main(int argc, char** argv) {
  t6::log::start(false);
  t6::io::set_fault_hook(
      [](DiskCall call, const std::filesystem::path& path, size_t& bytes) { return faults(call, path, bytes); });
  int code = 0;
  try {
    code = train({argv, argv + argc});
  } catch (const t6::Error& error) {
    std::fprintf(stderr, "t6: %s\n", error.what());
    code = static_cast<int>(error.code());
  }
  t6::io::set_fault_hook({});
  if (const char* file = std::getenv("T6_COUNT_CALLS")) {
    t6::io::File::create(file).write_all(std::to_string(faults.calls) + "\n");
  }
  return code;
}
