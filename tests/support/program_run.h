// Runs a built program as a user would: a child process in a folder, its outputs, its end and what it cost.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <vector>

namespace t6::test {

struct Outcome {
  int code = -1;   // exit code; 128 + n when signal n ended the process
  int signal = 0;  // that signal
  std::string out, err;
  double seconds = 0;      // from start to finish, on the clock
  double cpu_seconds = 0;  // user and system: a busy machine does not lengthen it
  long peak_kib = 0;       // resident
};

using Environment = std::map<std::string, std::string>;

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Where the outputs of a program that runs in a folder go.
inline constexpr const char* kStandardOutput = ".stdout";
inline constexpr const char* kStandardError = ".stderr";

// Starts `program` with `arguments` in `folder`; standard input is the file `input`, `environment` is added to this
// process's. `confine` runs last before the program itself.
inline pid_t start_program(const char* program, const std::vector<std::string>& arguments,
                           const std::filesystem::path& folder, const Environment& environment = {},
                           const std::string& input = "/dev/null", const std::function<void()>& confine = {}) {
  std::vector<char*> argv{const_cast<char*>(program)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child != 0) return child;
  const auto redirect = [](int to, const char* path, int flags) {
    const int file = ::open(path, flags, 0644);
    if (file < 0 || ::dup2(file, to) < 0) ::_exit(99);
  };
  if (::chdir(folder.c_str()) != 0) ::_exit(99);
  redirect(0, input.c_str(), O_RDONLY);
  redirect(1, kStandardOutput, O_WRONLY | O_CREAT | O_TRUNC);
  redirect(2, kStandardError, O_WRONLY | O_CREAT | O_TRUNC);
  ::setenv("OMP_WAIT_POLICY", "passive", 1);
  for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  if (confine) confine();
  ::execv(program, argv.data());
  ::_exit(99);
}

// Waits for `child`, which start_program() gave at `started` (of seconds_now()). The outputs are those of the program
// that was started last in the folder.
inline Outcome finish_program(pid_t child, const std::filesystem::path& folder, double started) {
  Outcome outcome;
  int status = 0;
  rusage usage{};
  EXPECT_EQ(::wait4(child, &status, 0, &usage), child);
  outcome.seconds = seconds_now() - started;
  outcome.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + outcome.signal;
  outcome.peak_kib = usage.ru_maxrss;
  for (const timeval& time : {usage.ru_utime, usage.ru_stime}) {
    outcome.cpu_seconds += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  }
  const auto read = [&](const char* name) {
    std::ifstream file(folder / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  outcome.out = read(kStandardOutput);
  outcome.err = read(kStandardError);
  return outcome;
}

inline ::testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "no \"" << part << "\" in:\n" << text;
}

}  // namespace t6::test
