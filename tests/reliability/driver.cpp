// The trainer under injected faults: `driver train --config F [section.key=value...]` does what t6 train does, and
// environment variables make disk calls fail or end the process. On several ranks where mpirun starts them.
//
//   T6_COUNT_CALLS=FILE   writes the number of disk calls into FILE at the end
//   T6_DIE_AT_CALL=N      ends the process, as a kill does, instead of disk call N (from 1); with T6_TORN=1 half of
//                         what call N was to write is there first; on several ranks that of T6_DIE_RANK (0)
//   T6_FULL=A-B           after A attempts to write to metrics.jsonl and until B have been made the disk is full: every
//                         write and every new file fails
//   T6_FULL_IN=PART       only where PART is in the path
//   T6_HOLD_PAYLOAD=A-B   after A lines of metrics.jsonl rank 0 writes nothing to a file of tensors before it has
//                         written B; 20 s later it does
//   T6_FREE_BYTES=N       what the file system says is free
//   T6_SIGNAL_AT=N        SIGTERM comes while line N of metrics.jsonl is written, which is after that step's vote
//   T6_SPIN=RANK:OFFSET   the second time that a rank reads at this place of a file val_*.bin it never comes back;
//                         ranks are mpirun's
//   T6_SLOW_HASH=MS       every file of tensors that is hashed takes so long, and is recorded as the call "hash"
//   T6_POISON=LIST        numbers that go bad, "loss|gradient|own|weights:STEP:RANK:STEPS:VALUE" with semicolons
//                         between them (support/poisoned_ranks.h); own: of the gradient, after the ranks have summed it
//   T6_STUCK=RANK:PART    a disk call of this rank on a path with PART in it never comes back; ranks are mpirun's
//   T6_HANG=1             after SIGUSR2 no read of training data comes back: the process lives and does not go on
//
// What it did is recorded, a line each, for the tests to judge; of rank R of several in FILE.R:
//   T6_RECORD_CALLS=FILE  every disk call with its path; fsync where the system call itself is made
//   T6_RECORD_READS=FILE  every pread of a .bin file: path, offset, bytes
//   T6_RECORD_MEMORY=FILE every tenth window of training that is read: how many so far, resident KiB, KiB allocated
//
// Controls: mistakes on purpose, which the tests must find.
//   T6_SWALLOW_SYNC=PART  fsync of a path that ends in PART does nothing and says that it did
//   T6_SWALLOW_WRITE=PART writes to a file that ends in PART do nothing and say that they did
//   T6_TAKE_NO_SIGNAL=1   nobody takes a signal
//   T6_STOP_CLOCK=1       the steady clock stands still from the first step on
//   T6_LEAK=BYTES         this much is lost every step
//   T6_NO_LOCK=1          locking a file always works
//   T6_MISBEHAVE=WHAT     at the first step: socket, exec (in a child that lives longer than the training), or the path
//                         of a file to write
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/io.h"
#include "base/log.h"
#include "dist/connect.h"
#include "dist/ending.h"
#include "support/poisoned_ranks.h"
#include "train/trainer.h"

namespace {

using t6::io::DiskCall;

uint64_t number_of(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : 0;
}

std::string text_of(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// Of several; empty: the only one.
std::string rank_text() {
  return text_of("OMPI_COMM_WORLD_RANK");
}

// Appends a line to the file that an environment variable names; none when it is not set. One system call: threads
// and a kill tear no line.
void record(const char* name, const std::string& line) {
  std::string file = text_of(name);
  if (file.empty()) return;
  if (const std::string rank = rank_text(); !rank.empty()) file += "." + rank;
  const int to = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (to < 0 || ::syscall(SYS_write, to, line.c_str(), line.size()) < 0) ::_exit(98);
  ::close(to);
}

std::string path_of(int file) {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(file), ignored).string();
}

std::string absolute_text(const std::filesystem::path& path) {
  const std::string text = std::filesystem::absolute(path).lexically_normal().string();
  return text.ends_with("/") ? text.substr(0, text.size() - 1) : text;
}

long resident_kib() {
  long all = 0, resident = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%ld %ld", &all, &resident) != 2) ::_exit(98);
  std::fclose(file);
  return resident * (::sysconf(_SC_PAGESIZE) / 1024);
}

size_t heap_kib() {
  const struct mallinfo2 info = ::mallinfo2();
  return (info.uordblks + info.hblkhd) / 1024;
}

// Storage that no longer answers.
std::atomic<bool> hangs = false;
static_assert(std::atomic<bool>::is_always_lock_free);

void on_window_read() {
  static std::atomic<uint64_t> windows = 0;
  while (hangs) ::usleep(10'000);
  const uint64_t number = ++windows;
  if (number % 10 != 0 || std::getenv("T6_RECORD_MEMORY") == nullptr) return;
  record("T6_RECORD_MEMORY",
         std::to_string(number) + " " + std::to_string(resident_kib()) + " " + std::to_string(heap_kib()) + "\n");
}

// The steady clock, once it stands still.
std::atomic<bool> clock_stopped = false;
timespec stopped_at;

void misbehave(const std::string& what) {
  if (what == "socket") {
    ::close(::socket(AF_INET, SOCK_STREAM, 0));
  } else if (what == "exec") {
    const pid_t parent = ::getpid();
    if (::fork() == 0) {
      while (::getppid() == parent) ::usleep(1000);
      ::execl("/bin/true", "true", nullptr);
      ::syscall(SYS_execveat, AT_FDCWD, "/bin/true", nullptr, nullptr, 0);
      ::_exit(0);
    }
  } else if (FILE* file = std::fopen(what.c_str(), "w")) {
    std::fclose(file);
  }
}

struct Faults {
  uint64_t die_at =
      rank_text().empty() || rank_text() == std::to_string(number_of("T6_DIE_RANK")) ? number_of("T6_DIE_AT_CALL") : 0;
  bool torn = number_of("T6_TORN") != 0;
  uint64_t full_from = 0, full_to = 0;
  std::atomic<uint64_t> calls = 0, metrics_writes = 0;
  uint64_t leak = number_of("T6_LEAK"), signal_at = number_of("T6_SIGNAL_AT");
  uint64_t hold_from = 0, hold_to = 0;
  std::string full_in, stuck_in, misbehaviour = text_of("T6_MISBEHAVE");
  std::vector<char*> lost;

  Faults() {
    const char* full = std::getenv("T6_FULL");
    const char* part = std::getenv("T6_FULL_IN");
    if (part != nullptr) full_in = part;
    if (full != nullptr) std::sscanf(full, "%lu-%lu", &full_from, &full_to);
    const std::string held = text_of("T6_HOLD_PAYLOAD"), stuck = text_of("T6_STUCK");
    if (rank_text().empty() || rank_text() == "0") std::sscanf(held.c_str(), "%lu-%lu", &hold_from, &hold_to);
    if (const size_t colon = stuck.find(':'); colon != std::string::npos && stuck.substr(0, colon) == rank_text()) {
      stuck_in = stuck.substr(colon + 1);
    }
  }

  int operator()(DiskCall call, const std::filesystem::path& path, size_t& bytes) {
    ++calls;
    if (die_at != 0 && torn && call == DiskCall::write && calls == die_at && bytes > 1) {
      bytes /= 2;
      ++die_at;
    }
    if (calls == die_at) ::_exit(137);
    while (!stuck_in.empty() && path.string().find(stuck_in) != std::string::npos) ::usleep(10'000);
    if (call == DiskCall::write && path.extension() == ".h5") hold();
    if (call != DiskCall::sync && call != DiskCall::sync_directory) {
      record("T6_RECORD_CALLS", std::string(t6::io::name_of(call)) + " " + absolute_text(path) + "\n");
    }
    if (call == DiskCall::write && path.filename() == "metrics.jsonl") on_step();
    const bool full =
        metrics_writes >= full_from && metrics_writes < full_to && path.string().find(full_in) != std::string::npos;
    if (call == DiskCall::write && path.filename() == "metrics.jsonl") ++metrics_writes;
    return full && (call == DiskCall::write || call == DiskCall::create) ? ENOSPC : 0;
  }

  void hold() {
    if (metrics_writes < hold_from) return;
    for (int ms = 0; metrics_writes < hold_to && ms < 20'000; ++ms) ::usleep(1000);
    hold_to = 0;
  }

  void on_step() {
    if (leak > 0) {
      lost.push_back(static_cast<char*>(std::malloc(leak)));
      std::fill_n(lost.back(), leak, 'x');
    }
    if (number_of("T6_STOP_CLOCK") != 0 && !clock_stopped) {
      ::clock_gettime(CLOCK_MONOTONIC, &stopped_at);
      clock_stopped = true;
    }
    if (signal_at != 0 && metrics_writes + 1 == signal_at) {
      ::kill(::getpid(), SIGTERM);
      ::usleep(100'000);  // until another thread has taken it
    }
    if (!misbehaviour.empty() && metrics_writes == 1) misbehave(misbehaviour);
  }
};

Faults faults;

std::vector<t6::test::Poison> poisons() {
  std::istringstream list(text_of("T6_POISON"));
  std::vector<t6::test::Poison> all;
  for (std::string one; std::getline(list, one, ';');) {
    t6::test::Poison poison;
    char in = 0, value[32];
    if (std::sscanf(one.c_str(), "%c%*[a-z]:%ld:%d:%ld:%31s", &in, &poison.step, &poison.rank, &poison.steps, value) !=
        5)
      ::_exit(98);
    poison.told = in != 'o';
    poison.in = in == 'l'   ? t6::test::Poison::In::loss
                : in == 'w' ? t6::test::Poison::In::weights
                            : t6::test::Poison::In::gradient;
    poison.value = std::strtod(value, nullptr);
    all.push_back(poison);
  }
  return all;
}

// Hashes read files in such pieces; libhdf5 does not begin with one.
constexpr size_t kHashedAtOnce = size_t{1} << 20;

// Whether this read is where the rank is to hang.
bool spins_at(const std::string& path, off_t offset) {
  static const std::string where = text_of("T6_SPIN");
  static std::atomic<int> times = 0;
  int rank = 0;
  long at = 0;
  if (std::sscanf(where.c_str(), "%d:%ld", &rank, &at) != 2 ||
      static_cast<uint64_t>(rank) != number_of("OMPI_COMM_WORLD_RANK"))
    return false;
  return offset == at && path.find("/val_") != std::string::npos && ++times == 2;
}

// On as many ranks as mpirun started.
int train_on_ranks(const t6::RunConfig& config, const std::vector<std::string>& arguments) {
  const auto checkpoints = t6::train::RunPaths{config.run.dir}.checkpoints();
  const auto listed =
      std::filesystem::exists(checkpoints) ? t6::checkpoint::list(checkpoints) : std::vector<t6::checkpoint::Entry>{};
  t6::dist::ConnectOptions options;
  if (config.run.watchdog) options.control.watchdog = static_cast<double>(config.run.watchdog->count());
  t6::dist::Connection ranks = t6::dist::connect(t6::dist::discover({}), t6::kCpu, options);
  return ranks.run([&] {
    t6::test::PoisonedRank poisoned(ranks.communicator(), poisons(), listed.empty() ? 0 : listed.back().step);
    t6::train::Trainer trainer(config, arguments, {.communicator = &poisoned, .control = &ranks.control()});
    return t6::train::exit_code(trainer.run());
  });
}

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
  const t6::RunConfig config = t6::load_run_config(files, overrides);
  if (std::getenv("T6_POISON") != nullptr || std::getenv("T6_SPIN") != nullptr || !rank_text().empty()) {
    return train_on_ranks(config, arguments);
  }
  return t6::train::exit_code(t6::train::Trainer(config, arguments).run());
}

}  // namespace

// These take the C library's place for the whole program.
extern "C" ssize_t pread(int file, void* bytes, size_t count, off_t offset) {
  static const bool spins = !text_of("T6_SPIN").empty();
  static const bool watched =
      spins || !(text_of("T6_RECORD_READS") + text_of("T6_RECORD_MEMORY") + text_of("T6_HANG")).empty();
  if (watched) {
    const std::string path = path_of(file);
    if (spins && spins_at(path, offset)) {
      for (volatile bool on = true; on;) {
      }
    }
    if (path.ends_with(".bin")) {
      record("T6_RECORD_READS", path + " " + std::to_string(offset) + " " + std::to_string(count) + "\n");
      if (path.find("/train_") != std::string::npos) on_window_read();
    }
  }
  static const auto slow_hash = static_cast<useconds_t>(number_of("T6_SLOW_HASH"));
  if (slow_hash != 0 && offset == 0 && count >= kHashedAtOnce) {
    if (const std::string path = path_of(file); path.ends_with(".h5")) {
      ::usleep(slow_hash * 1000);
      record("T6_RECORD_CALLS", "hash " + path + "\n");
    }
  }
  return ::syscall(SYS_pread64, file, bytes, count, offset);
}

extern "C" int fsync(int file) {
  const std::string path = path_of(file), swallowed = text_of("T6_SWALLOW_SYNC");
  if (!swallowed.empty() && path.ends_with(swallowed)) return 0;
  record("T6_RECORD_CALLS", "fsync " + path + "\n");
  return static_cast<int>(::syscall(SYS_fsync, file));
}

extern "C" ssize_t pwrite(int file, const void* bytes, size_t count, off_t offset) {
  static const std::string swallowed = text_of("T6_SWALLOW_WRITE");
  if (!swallowed.empty() && path_of(file).ends_with(swallowed)) return static_cast<ssize_t>(count);
  return ::syscall(SYS_pwrite64, file, bytes, count, offset);
}

extern "C" int sigaction(int number, const struct sigaction* action, struct sigaction* before) noexcept {
  static const auto real = reinterpret_cast<decltype(&sigaction)>(::dlsym(RTLD_NEXT, "sigaction"));
  return number_of("T6_TAKE_NO_SIGNAL") != 0 ? 0 : real(number, action, before);
}

extern "C" int clock_gettime(clockid_t clock, struct timespec* time) noexcept {
  if (clock == CLOCK_MONOTONIC && clock_stopped) {
    *time = stopped_at;
    return 0;
  }
  return static_cast<int>(::syscall(SYS_clock_gettime, clock, time));
}

extern "C" int flock(int file, int operation) noexcept {
  return number_of("T6_NO_LOCK") != 0 ? 0 : static_cast<int>(::syscall(SYS_flock, file, operation));
}

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
  if (number_of("T6_HANG") != 0) {
    std::signal(SIGUSR2, [](int) { hangs = true; });
  }
  int code = 0;
  try {
    code = train({argv, argv + argc});
  } catch (const t6::SaidElsewhere& error) {
    t6::dist::leave_with_others(error.code());  // as the program does
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
