// Ranks as forked processes of a test: what each said and how it ended.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "dist/wire.h"

namespace t6::dist {

struct Ended {
  int code = -1;       // exit code; 128 + n when signal n ended it
  std::string err;     // its standard error
  double seconds = 0;  // from the start of all to its end
};

inline int free_port() {
  return listen_at({"127.0.0.1", 0}).port();
}

// Processes that run `work(rank)` and exit with what it returns; errors are said as main says them.
class Processes {
 public:
  Processes() {
    std::string name = (std::filesystem::temp_directory_path() / "t6-dist-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    folder_ = name;
  }
  ~Processes() {
    for (const pid_t process : processes_) {
      if (process > 0) ::kill(process, SIGKILL), ::waitpid(process, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }

  void start(int count, const std::function<int(int)>& work) {
    began_ = steady_seconds();
    for (int i = 0; i < count; ++i) {
      const auto rank = static_cast<int>(processes_.size());
      const std::string path = file(rank);
      const pid_t child = ::fork();
      if (child == 0) be(rank, path, work);
      processes_.push_back(child);
    }
  }
  pid_t process(int rank) const { return processes_[static_cast<size_t>(rank)]; }
  double began() const { return began_; }

  // Waits for all, at most `seconds`: those that are still there have code -1, and are ended.
  std::vector<Ended> wait(double seconds) {
    std::vector<Ended> ended(processes_.size());
    const double until = steady_seconds() + seconds;
    for (size_t left = processes_.size(); left > 0 && steady_seconds() < until;) {
      for (size_t i = 0; i < processes_.size(); ++i) {
        int status = 0;
        if (processes_[i] <= 0 || ::waitpid(processes_[i], &status, WNOHANG) <= 0) continue;
        ended[i].code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        ended[i].seconds = steady_seconds() - began_;
        processes_[i] = 0;
        --left;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    for (size_t i = 0; i < processes_.size(); ++i) {
      if (processes_[i] > 0) ::kill(processes_[i], SIGKILL), ::waitpid(processes_[i], nullptr, 0);
      processes_[i] = 0;
      std::ifstream in(file(static_cast<int>(i)), std::ios::binary);
      ended[i].err = std::string(std::istreambuf_iterator<char>(in), {});
    }
    return ended;
  }

 private:
  std::string file(int rank) const { return (folder_ / std::to_string(rank)).string(); }

  [[noreturn]] static void be(int rank, const std::string& path, const std::function<int(int)>& work) {
    const int out = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(out, 1);
    ::dup2(out, 2);
    const auto say = [](const std::string& text) {
      if (::write(2, text.data(), text.size()) < 0) ::_exit(98);
    };
    int code = 99;
    try {
      code = work(rank);
    } catch (const SaidElsewhere& error) {
      code = static_cast<int>(error.code());
    } catch (const Error& error) {
      say(std::string(error.what()) + "\n");
      code = static_cast<int>(error.code());
    } catch (const std::exception& error) {
      say(std::string("exception: ") + error.what() + "\n");
    }
    ::_exit(code);
  }

  std::filesystem::path folder_;
  std::vector<pid_t> processes_;
  double began_ = 0;
};

inline std::string all_said(const std::vector<Ended>& ended) {
  std::string text;
  for (const Ended& each : ended) text += each.err;
  return text;
}

inline ::testing::AssertionResult says(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "no \"" << part << "\" in:\n" << text;
}

}  // namespace t6::dist
