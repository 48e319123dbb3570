// Runs the built program as a user would, in a folder of the test's own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace t6::test {

struct Outcome {
  int code = -1;  // exit code, or 128 + the signal that ended it
  std::string out, err;
  double cpu_seconds = 0;  // user and system: a busy machine does not lengthen it
  long peak_kib = 0;       // resident
};

class Program : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "t6-cli-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Starts the program with `arguments` in folder(); standard input is empty.
  pid_t start(const std::vector<std::string>& arguments) const {
    std::vector<char*> argv{const_cast<char*>(T6_PROGRAM)};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const std::string out = folder_ / "stdout.txt", err = folder_ / "stderr.txt";
    const pid_t child = ::fork();
    if (child != 0) return child;
    const auto redirect = [](int to, const char* path, int flags) {
      const int file = ::open(path, flags, 0644);
      if (file < 0 || ::dup2(file, to) < 0) ::_exit(99);
    };
    redirect(0, "/dev/null", O_RDONLY);
    redirect(1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC);
    redirect(2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC);
    if (::chdir(folder_.c_str()) != 0) ::_exit(99);
    ::setenv("OMP_WAIT_POLICY", "passive", 1);
    ::execv(T6_PROGRAM, argv.data());
    ::_exit(99);
  }

  Outcome finish(pid_t child) const {
    Outcome outcome;
    int status = 0;
    rusage usage{};
    EXPECT_EQ(::wait4(child, &status, 0, &usage), child);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.peak_kib = usage.ru_maxrss;
    for (const timeval& time : {usage.ru_utime, usage.ru_stime}) {
      outcome.cpu_seconds += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    }
    outcome.out = read("stdout.txt");
    outcome.err = read("stderr.txt");
    return outcome;
  }

  Outcome run(const std::vector<std::string>& arguments) const { return finish(start(arguments)); }

  std::string read(const std::string& name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  // Names of everything below folder(), but for the outputs of run().
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
      const std::string name = std::filesystem::relative(entry.path(), folder_).string();
      if (name != "stdout.txt" && name != "stderr.txt") names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

inline ::testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "no \"" << part << "\" in:\n" << text;
}

// A few thousand sentences that a tiny model can learn something of; a function of `sentences`.
inline std::string small_text(int sentences = 400) {
  const char* subjects[] = {"the cat", "a small dog", "the old man", "my sister", "the queen"};
  const char* verbs[] = {"sees", "likes", "follows", "finds", "draws"};
  const char* objects[] = {"the river", "a red house", "the garden", "an apple", "the long road"};
  std::string text;
  unsigned state = 1;
  const auto next = [&] { return (state = state * 1664525 + 1013904223) >> 16; };
  for (int i = 0; i < sentences; ++i) {
    text += std::string(subjects[next() % 5]) + " " + verbs[next() % 5] + " " + objects[next() % 5] + ".\n";
  }
  return text;
}

}  // namespace t6::test
