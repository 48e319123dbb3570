#include "fuzz/fuzz_target.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "base/io.h"

namespace t6::fuzz {
namespace {

namespace fs = std::filesystem;

// R19.
constexpr double kSeconds = 1;

// Processor time of children that were waited for.
double seconds_of_children() {
  rusage usage{};
  ::getrusage(RUSAGE_CHILDREN, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double now(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Counts inputs and tells scripts/fuzz.sh about them through the file that T6_FUZZ_STATUS names: inputs, seconds, most
// milliseconds of an input, peak memory in KiB, the target's words.
struct Status {
  const char* path = std::getenv("T6_FUZZ_STATUS");
  double began = now(CLOCK_MONOTONIC);
  double written = 0;
  uint64_t inputs = 0;
  double slowest = 0;
  const Target* target = nullptr;

  ~Status() { write(); }
  void write() const {
    if (path == nullptr || target == nullptr) return;
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const std::string next = std::string(path) + ".new";
    if (std::FILE* file = std::fopen(next.c_str(), "w")) {
      fmt::print(file, "{} {:.1f} {:.1f} {} {}\n", inputs, now(CLOCK_MONOTONIC) - began, slowest * 1e3, usage.ru_maxrss,
                 target->summary);
      std::fclose(file);
      std::rename(next.c_str(), path);
    }
  }
};

}  // namespace

std::vector<Target*>& targets() {
  static std::vector<Target*> all;
  return all;
}

Target* find(std::string_view name) {
  for (Target* target : targets()) {
    if (target->name == name) return target;
  }
  return nullptr;
}

Registered::Registered(Target described) : target(std::move(described)) {
  auto& all = targets();
  all.push_back(&target);
  std::sort(all.begin(), all.end(),
            [](const Target* a, const Target* b) { return std::string_view(a->name) < std::string_view(b->name); });
}

void run(Target& target, std::string_view input) {
  static Status status;
  status.target = &target;
  const auto processor_time = [] { return now(CLOCK_THREAD_CPUTIME_ID) + seconds_of_children(); };
  const double begin = processor_time();
  target.run(input);
  const double seconds = processor_time() - begin;
  status.slowest = std::max(status.slowest, seconds);
  ++status.inputs;
  if (const double time = now(CLOCK_MONOTONIC); time - status.written > 1) {
    status.written = time;
    status.write();
  }
  // What a child's own limit, of a second, lets pass is what the kernel needs to see that it is over.
  const double limit = target.forks ? 1.25 * kSeconds : kSeconds;
  require(seconds <= limit, "took {:.2f} s of processor time, more than {} s", seconds, limit);
}

void finding(const std::string& what) {
  std::fflush(stdout);
  fmt::print(stderr, "\nFINDING: {}\n", what);
  std::fflush(stderr);
  std::abort();
}

std::vector<std::string_view> pieces_of(std::string_view input, size_t least) {
  std::vector<std::string_view> pieces;
  for (size_t begin = 0; begin <= input.size();) {
    const size_t end = std::min(input.find(kCut, begin), input.size());
    pieces.push_back(input.substr(begin, end - begin));
    begin = end + 1;
  }
  while (pieces.size() < least) pieces.emplace_back();
  return pieces;
}

MemoryFile::MemoryFile() : descriptor_(::memfd_create("t6_fuzz", MFD_CLOEXEC)) {
  require(descriptor_ >= 0, "no file in memory to be had");
  path_ = fmt::format("/proc/self/fd/{}", descriptor_);
}

const fs::path& MemoryFile::hold(std::string_view bytes) {
  const bool ok = ::ftruncate(descriptor_, 0) == 0 &&
                  ::pwrite(descriptor_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size());
  require(ok, "cannot fill a file in memory");
  return path_;
}

const fs::path& scratch_folder() {
  struct Folder {
    fs::path path;
    Folder() {
      std::error_code error;
      const fs::path base = fs::is_directory("/dev/shm", error) ? "/dev/shm" : fs::temp_directory_path();
      std::string name = (base / "t6_fuzz_XXXXXX").string();
      require(::mkdtemp(name.data()) != nullptr, "cannot make a folder in {}", base.string());
      path = name;
    }
    ~Folder() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  };
  static const Folder folder;
  return folder.path;
}

std::string source_file(const std::string& name) {
  return io::read_text(fs::path(T6_SOURCE_DIR) / name);
}

}  // namespace t6::fuzz
