#include "base/child.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "base/error.h"

namespace t6 {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void expect_no_child_left() {
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(Child, GivesWhatTheWorkReturned) {
  for (const size_t size : {size_t{0}, size_t{5}, size_t{3'000'000}}) {
    const std::string text(size, 'x');
    const ChildResult result = run_in_child([&] { return text; });
    EXPECT_EQ(result.failure, "");
    EXPECT_TRUE(result.text == text);
  }
  int here = 1;
  run_in_child([&] { return std::to_string(++here); });
  EXPECT_EQ(here, 1);
  expect_no_child_left();
}

TEST(Child, ThrowsTheErrorOfTheWork) {
  try {
    run_in_child([]() -> std::string { fail(ExitCode::data, "bad file {}", 7); });
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_STREQ(error.what(), "bad file 7");
  }
  EXPECT_NE(run_in_child([]() -> std::string { throw 5; }).failure, "");
  expect_no_child_left();
}

TEST(Child, ACrashIsToldAndEndsTheChildAlone) {
  for (const auto& [number, words] : {std::pair<int, const char*>{SIGSEGV, "Segmentation fault"},
                                      {SIGBUS, "Bus error"},
                                      {SIGABRT, "Aborted"},
                                      {SIGKILL, "Killed"}}) {
    const ChildResult result = run_in_child([number = number]() -> std::string {
      ::raise(number);
      return "alive";
    });
    EXPECT_EQ(result.failure, std::string("it crashed (") + words + ")");
    EXPECT_EQ(result.text, "");
  }
  EXPECT_EQ(run_in_child([]() -> std::string { ::_exit(0); }).failure, "it ended without a result");
  expect_no_child_left();
}

TEST(Child, LimitsEndIt) {
  const ChildLimits one_second{.processor_seconds = 1, .seconds = 30};
  const auto spin = []() -> std::string {
    for (std::atomic<uint64_t> i = 0;; ++i) {
    }
  };
  EXPECT_EQ(run_in_child(spin, one_second).failure, "it used up its processor time");
  const auto sleep = []() -> std::string {
    ::sleep(60);
    return "awake";
  };
  EXPECT_LT(seconds_of([&] {
              EXPECT_NE(run_in_child(sleep, {.seconds = 1}).failure.find("longer than 1 s"), std::string::npos);
            }),
            20);
  const auto eat = []() -> std::string {
    const std::vector<char> much(size_t{1} << 30, 'x');
    return std::string(much.begin(), much.begin() + 1);
  };
#if !defined(__SANITIZE_ADDRESS__)  // ends the process instead of throwing
  EXPECT_EQ(run_in_child(eat, {.memory_bytes = uint64_t{256} << 20}).failure, "it needed more than 256 MiB of memory");
#endif
  expect_no_child_left();
}

TEST(Child, WritesNoFile) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("t6-child-" + std::to_string(::getpid()));
  const ChildResult result = run_in_child([&]() -> std::string {
    std::ofstream(path) << "something";
    return "written";
  });
  EXPECT_EQ(result.text, "");
  EXPECT_FALSE(std::filesystem::exists(path) && std::filesystem::file_size(path) > 0);
  std::filesystem::remove(path);
}

// Not under the address sanitizer: its allocator has locks that no fork waits for, and its memory takes long to copy.
#if !defined(__SANITIZE_ADDRESS__)
// Threads that allocate and throw all the time: a lock held by one of them would hang a child that needs it.
TEST(Child, ForksWhileThreadsWork) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        try {
          const std::vector<std::string> some(100, std::string(200, 'y'));
          throw std::runtime_error(some.back());
        } catch (const std::runtime_error&) {
        }
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    EXPECT_THROW(run_in_child([]() -> std::string { fail(ExitCode::data, "{}", std::string(100'000, 'z')); }), Error);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST(Child, CostsLittle) {
  // The fastest of a few, as the machine may be busy.
  double best = 1;
  for (int i = 0; i < 20; ++i) best = std::min(best, seconds_of([] { run_in_child([] { return std::string("x"); }); }));
  EXPECT_LT(best, 0.02);
}
#endif

}  // namespace
}  // namespace t6
