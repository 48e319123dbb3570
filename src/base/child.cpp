#include "base/child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <new>
#include <optional>
#include <string_view>

#include "base/error.h"

namespace t6 {
namespace {

std::atomic<bool> children_here = false;

constexpr size_t kMaxText = size_t{64} << 20;

// The first byte of what the child sends.
constexpr char kReturned = 'r', kThrew = 'e', kNoMemory = 'm', kStrange = 's';

void set_limit(__rlimit_resource resource, uint64_t value, uint64_t more = 0) {
  const rlimit limit{value, value + more};
  ::setrlimit(resource, &limit);
}

uint64_t mapped_bytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t pages = 0;
  statm >> pages;
  return pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

void send(int pipe, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(pipe, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) ::_exit(1);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

[[noreturn]] void be_child(const std::function<std::string()>& work, const ChildLimits& limits, uint64_t mapped,
                           pid_t parent, int pipe) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // it died before that
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGXCPU, SIGXFSZ}) ::signal(number, SIG_DFL);
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_FSIZE, 0);
  set_limit(RLIMIT_CPU, static_cast<uint64_t>(limits.processor_seconds), 1);  // the hard limit would be SIGKILL
  if (mapped > 0) set_limit(RLIMIT_AS, mapped + limits.memory_bytes);
  char kind = kReturned;
  std::string text;
  try {
    text = work();
  } catch (const Error& error) {
    kind = kThrew;
    text = std::string(1, static_cast<char>(error.code())) + error.what();
  } catch (const std::bad_alloc&) {
    kind = kNoMemory;
  } catch (...) {
    kind = kStrange;
  }
  send(pipe, {&kind, 1});
  send(pipe, text);
  ::_exit(0);
}

// All that comes until the child closes its end; nothing when it takes longer than `deadline` or sends too much.
std::optional<std::string> receive(int pipe, std::chrono::steady_clock::time_point deadline) {
  std::string all;
  std::array<char, 65536> buffer;
  while (all.size() <= kMaxText) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd waited{pipe, POLLIN, 0};
    const int ready = left.count() > 0 ? ::poll(&waited, 1, static_cast<int>(left.count())) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return std::nullopt;
    const ssize_t n = ::read(pipe, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return all;
    all.append(buffer.data(), static_cast<size_t>(n));
  }
  return std::nullopt;
}

std::string describe_end(int status) {
  if (!WIFSIGNALED(status)) return "it ended without a result";
  const int number = WTERMSIG(status);
  if (number == SIGXCPU) return "it used up its processor time";
  return fmt::format("it crashed ({})", ::strsignal(number));
}

}  // namespace

void run_children_here(bool here) {
  children_here = here;
}

ChildResult run_in_child(const std::function<std::string()>& work, const ChildLimits& limits) {
  if (children_here) return {work(), {}};
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail(ExitCode::io, "cannot make a pipe: {}", std::strerror(errno));
  const uint64_t mapped = mapped_bytes();
  const pid_t parent = ::getpid();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(limits.seconds);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    be_child(work, limits, mapped, parent, ends[1]);
  }
  const int fork_error = errno;
  ::close(ends[1]);
  if (child < 0) {
    ::close(ends[0]);
    fail(ExitCode::io, "cannot start a process: {}", std::strerror(fork_error));
  }
  std::optional<std::string> sent;
  try {
    sent = receive(ends[0], deadline);
  } catch (...) {
    // Out of memory: the child still has to be waited for.
  }
  ::close(ends[0]);
  if (!sent) ::kill(child, SIGKILL);
  int status = 0;
  pid_t ended = 0;
  while ((ended = ::waitpid(child, &status, 0)) < 0 && errno == EINTR) {
  }
  if (!sent) return {{}, fmt::format("it took longer than {} s or sent too much", limits.seconds)};
  // A parent that ignores SIGCHLD has no status to look at (ended < 0).
  if (sent->empty() || (ended == child && status != 0)) return {{}, describe_end(ended == child ? status : 0)};
  const char kind = sent->front();
  sent->erase(0, 1);
  if (kind == kReturned) return {std::move(*sent), {}};
  if (kind == kThrew && !sent->empty()) throw Error(static_cast<ExitCode>(sent->front()), sent->substr(1));
  if (kind == kNoMemory) return {{}, fmt::format("it needed more than {} MiB of memory", limits.memory_bytes >> 20)};
  return {{}, "it ended without a result"};
}

}  // namespace t6
