#include "dist/ending.h"

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <future>
#include <system_error>
#include <thread>

namespace t6::dist {
namespace {

constexpr double kFinishSeconds = 1;  // for the communicator's hook and the log

}  // namespace

void write_line(const std::string& text) {
  const std::string line = fmt::format("{}t6: {}\n", ::isatty(2) != 0 ? "\r\x1b[K" : "", text);
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = ::write(2, line.data() + at, line.size() - at);
    if (n <= 0) return;
    at += static_cast<size_t>(n);
  }
}

void kill_silent(const std::vector<Seat>& seats, int own, const std::vector<int>& ranks) {
  const Seat& here = seats[static_cast<size_t>(own)];
  for (const int rank : ranks) {
    const Seat& seat = seats[static_cast<size_t>(rank)];
    if (rank == own || seat.space.empty() || seat.space != here.space || seat.process <= 1) continue;
    ::kill(static_cast<pid_t>(seat.process), SIGKILL);
  }
}

void end_process(ExitCode code, const std::function<void()>& last) {
  std::promise<void> done;
  std::future<void> ended = done.get_future();
  try {
    std::thread([&last, &done] {
      last();
      done.set_value();
    }).detach();
    ended.wait_for(std::chrono::duration<double>(kFinishSeconds));
  } catch (const std::system_error&) {
    // No thread to be had: it ends without.
  }
  ::_exit(static_cast<int>(code));
}

void leave_with_others(ExitCode code) {
  std::signal(SIGTERM, SIG_IGN);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  std::fflush(nullptr);
  ::_exit(static_cast<int>(code));
}

}  // namespace t6::dist
