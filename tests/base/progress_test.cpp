#include "base/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"

namespace t6 {
namespace {

ProgressView some_view() {
  return {"tokenize", "B", 1'300'000'000, 3'100'000'000, 104e6, 17.3, 12.5, "shard 3"};
}

TEST(ProgressBar, ShowsEverythingWhereThereIsRoom) {
  EXPECT_EQ(
      render_bar(some_view(), 200, false, false),
      "tokenize   41% ================>-----------------------  1.30 GB/3.10 GB  104 MB/s  eta 17.3s  12.5s  shard 3");
  EXPECT_EQ(
      render_bar(some_view(), 200, false, true),
      "tokenize   41% ━━━━━━━━━━━━━━━━╸───────────────────────  1.30 GB/3.10 GB  104 MB/s  eta 17.3s  12.5s  shard 3");
  EXPECT_EQ(render_bar(some_view(), 38, true, true),
            "\x1b[1mtokenize\x1b[0m   41% \x1b[36m━━━━━\x1b[0;2m───────\x1b[0m  eta 17.3s");
}

// Columns without colour escapes.
int columns_of(const std::string& line) {
  int columns = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\x1b') {
      i = line.find('m', i);
    } else if ((line[i] & 0xC0) != 0x80) {
      ++columns;
    }
  }
  return columns;
}

TEST(ProgressBar, NeverWiderThanTheTerminalAndLosesPartsOneByOne) {
  ProgressView view = some_view();
  view.label = "tokenisé";
  size_t parts_before = 0;
  for (int columns = 6; columns <= 140; ++columns) {
    const std::string line = render_bar(view, columns, columns % 2 == 0, true);
    EXPECT_LE(columns_of(line), columns) << line;
    EXPECT_NE(line.find("41%"), std::string::npos) << line;
    const std::string plain = render_bar(view, columns, false, false);
    size_t parts = 0;
    for (const char* part : {"eta", "--", "104 MB/s", "1.30 GB/3.10 GB", "12.5s", "shard 3"}) {
      parts += plain.find(part) != std::string::npos ? 1 : 0;
    }
    EXPECT_LE(parts, parts_before + 1) << plain;
    parts_before = parts;
  }
  EXPECT_EQ(parts_before, 6U);
  EXPECT_EQ(render_bar(view, 12, false, true), "tokeni   41%");
}

TEST(ProgressBar, WithoutATotalThereIsNoBar) {
  EXPECT_EQ(render_bar({"read", "doc", 12'345, 0, 678.0, {}, 18.2, ""}, 80, false, true),
            "read  12.3k doc  678 doc/s  18.2s");
}

TEST(ProgressBar, FullAndOverfull) {
  EXPECT_EQ(render_bar({"x", "step", 5, 5, {}, 0.0, 1, ""}, 32, false, false), "x  100% ==============  eta 0 ms");
  EXPECT_EQ(render_bar({"x", "step", 9, 5, {}, 0.0, 1, ""}, 32, false, false), "x  100% ==============  eta 0 ms");
  // Not "100%" before the end.
  EXPECT_NE(render_bar({"x", "step", 999, 1000, {}, {}, 1, ""}, 80, false, false).find(" 99%"), std::string::npos);
}

TEST(ProgressBar, NotesCannotMoveTheCursor) {
  const std::string line = render_bar({"a\nb", "step", 1, 2, {}, {}, 1, "c\x1b[2Jd"}, 120, false, false);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
}

TEST(ProgressLine, ForFiles) {
  EXPECT_EQ(render_line(some_view()), "tokenize: 41 %, 1.30 GB of 3.10 GB, 104 MB/s, eta 17.3s, shard 3");
  EXPECT_EQ(render_line({"read", "doc", 12, 0, {}, {}, 3, ""}), "read: 12 doc, 3.0s");
  EXPECT_EQ(render_summary({"read", "doc", 1200, 0, 400.0, {}, 3, ""}), "read: 1.20k doc in 3.0s, 400 doc/s");
}

// A screen of one line, a clock moved by hand and a list of what was said.
struct FakeTerminal {
  std::atomic<double> now = 100;
  std::string raw;
  std::vector<std::string> said;
  std::atomic<int> draws = 0;

  ProgressTerminal terminal(bool interactive) {
    return {interactive,
            false,
            false,
            [] { return 100; },
            [this](std::string_view bytes) {
              raw += bytes;
              draws += bytes.size() > 4 ? 1 : 0;
            },
            [this](const std::string& line) { said.push_back(line); },
            [this] { return now.load(); }};
  }
  // What the line shows now.
  std::string line() const { return raw.substr(raw.rfind("\r\x1b[K") + 4); }
};

TEST(Progress, DrawsAtMostTenTimesASecond) {
  FakeTerminal fake;
  Progress bar({.label = "work", .unit = "step", .total = 10'000}, fake.terminal(true));
  for (int i = 0; i < 10'000; ++i) {
    fake.now += 0.001;
    bar.advance();
  }
  EXPECT_GE(fake.draws, 90);
  EXPECT_LE(fake.draws, 102);
  EXPECT_TRUE(fake.said.empty());
  bar.finish();
  bar.advance();
  EXPECT_EQ(fake.line(), "");
  EXPECT_EQ(fake.said, std::vector<std::string>{"work: 10.0k step in 10.0s, 1.00k step/s"});
}

TEST(Progress, RateFollowsTheLastSecondsAndStartIsNotWork) {
  FakeTerminal fake;
  Progress bar({.label = "work", .unit = "step", .total = 2000, .start = 1000}, fake.terminal(true));
  for (int i = 0; i < 10; ++i) {
    fake.now += 1;
    bar.advance(10);
  }
  EXPECT_NE(fake.line().find("1.10k/2.00k step  10.0 step/s  eta 1m30s  10.0s"), std::string::npos) << fake.line();
  for (int i = 0; i < 60; ++i) {
    fake.now += 1;
    bar.advance(1);
  }
  EXPECT_NE(fake.line().find("1.01 step/s"), std::string::npos) << fake.line();
  bar.set(1200);
  bar.note("loss 3.21");
  fake.now += 1;
  bar.advance(0);
  EXPECT_NE(fake.line().find("loss 3.21"), std::string::npos) << fake.line();
}

TEST(Progress, TheNewestBarIsShownAndTheOlderComesBack) {
  FakeTerminal fake;
  Progress outer({.label = "outer", .unit = "step", .total = 10}, fake.terminal(true));
  {
    Progress inner({.label = "inner", .unit = "step", .total = 10}, fake.terminal(true));
    fake.now += 1;
    outer.advance();
    EXPECT_EQ(fake.line().find("inner"), 0U) << fake.line();
  }
  EXPECT_EQ(fake.line(), "");
  EXPECT_TRUE(fake.said.empty()) << "a bar that was not finished said it was";
  fake.now += 1;
  outer.advance();
  EXPECT_EQ(fake.line().find("outer   20%"), 0U) << fake.line();
}

TEST(Progress, WithoutATerminalALineForEachTenPercentOrTenSeconds) {
  FakeTerminal fake;
  Progress slow({.label = "slow", .unit = "step", .total = 1000}, fake.terminal(false));
  for (int i = 0; i < 100; ++i) {
    fake.now += 0.5;
    slow.advance(1);
  }
  // 50 s and 10 %: after 10, 20, 30, 40 and 50 s.
  ASSERT_EQ(fake.said.size(), 5U);
  EXPECT_EQ(fake.said[0], "slow: 2 %, 20 of 1.00k step, 2.00 step/s, eta 8m10s");
  fake.said.clear();
  for (int i = 0; i < 90; ++i) {
    fake.now += 0.2;
    slow.advance(10);
  }
  EXPECT_EQ(fake.said.size(), 9U);  // 18 s and 90 %: at each tenth
  fake.said.clear();
  slow.finish();
  fake.now += 100;
  slow.advance(10);
  EXPECT_EQ(fake.said.size(), 1U);
  EXPECT_EQ(fake.raw, "");

  Progress silent({.label = "x", .unit = "step", .total = 10, .plain_lines = false}, fake.terminal(false));
  fake.now += 100;
  silent.advance(5);
  silent.finish();
  EXPECT_EQ(fake.said.size(), 1U);
}

TEST(Progress, CountsFromManyThreads) {
  FakeTerminal fake;
  Progress bar({.label = "work", .unit = "step"}, fake.terminal(false));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&bar] {
      for (int i = 0; i < 25'000; ++i) bar.advance();
    });
  }
  for (auto& thread : threads) thread.join();
  fake.now += 1;
  bar.finish();
  EXPECT_EQ(fake.said.back(), "work: 100k step in 1.0s, 100k step/s");
}

// What a terminal shows after these bytes: \r, \n, erase to the end of the line and colours are understood.
std::vector<std::string> screen_of(const std::string& bytes) {
  std::vector<std::string> lines(1);
  size_t column = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == '\r') {
      column = 0;
    } else if (bytes[i] == '\n') {
      lines.emplace_back();
      column = 0;
    } else if (bytes.compare(i, 3, "\x1b[K") == 0) {
      lines.back().resize(column);
      i += 2;
    } else if (bytes[i] == '\x1b') {
      i = bytes.find('m', i);
    } else {
      lines.back().resize(std::max(lines.back().size(), column + 1), ' ');
      lines.back()[column++] = bytes[i];
    }
  }
  return lines;
}

// Runs `work` with a pseudo-terminal of 60 columns as standard error, and returns what that got.
std::string on_a_terminal(const std::function<void()>& work) {
  struct winsize size {};
  size.ws_row = 24;
  size.ws_col = 60;
  // The child must not write what this process still has in its buffers.
  std::fflush(nullptr);
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, &size);
  if (child == 0) {
    work();
    ::_exit(0);
  }
  std::string bytes;
  char block[4096];
  for (ssize_t n; (n = ::read(terminal, block, sizeof block)) > 0;) bytes.append(block, static_cast<size_t>(n));
  ::close(terminal);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  return bytes;
}

TEST(Progress, LogLinesOfManyThreadsDoNotTearTheBar) {
  const std::string bytes = on_a_terminal([] {
    ::setenv("TERM", "xterm", 1);
    ::setenv("LC_ALL", "C.UTF-8", 1);
    ::setenv("NO_COLOR", "1", 1);
    log::start(false);
    Progress bar({.label = "work", .unit = "step", .total = 600});
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&bar, t] {
        for (int i = 0; i < 200; ++i) {
          bar.advance();
          std::this_thread::sleep_for(std::chrono::milliseconds(2));
          if (i % 10 == 0) log::info("thread {} line {} end", t, i);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    bar.finish();
  });
  EXPECT_NE(bytes.find("work"), bytes.rfind("work")) << "no bar was drawn";
  EXPECT_NE(bytes.find("━"), std::string::npos);
  EXPECT_EQ(bytes.find("\x1b[3"), std::string::npos) << "colour in spite of NO_COLOR";
  const std::vector<std::string> screen = screen_of(bytes);
  ASSERT_EQ(screen.size(), 62U) << testing::PrintToString(screen);
  for (size_t i = 0; i < 60; ++i) {
    EXPECT_EQ(screen[i].find(" info: thread "), 8U) << screen[i];
    EXPECT_EQ(screen[i].rfind(" end"), screen[i].size() - 4) << screen[i];
  }
  EXPECT_EQ(screen[60].find(" info: work: 600 step in "), 8U) << screen[60];
  EXPECT_EQ(screen[61], "");
}

TEST(Progress, NothingIsDrawnWhileALogLineIsBeingWritten) {
  // Standard error is a full pipe: the log line is stuck half-way until the pipe is emptied.
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const int true_error = ::dup(STDERR_FILENO);
  const auto true_logger = spdlog::default_logger();
  ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
  while (::write(ends[1], "x", 1) == 1) {
  }
  ::fcntl(ends[1], F_SETFL, 0);
  ::dup2(ends[1], STDERR_FILENO);
  log::start(false);

  FakeTerminal fake;
  std::atomic<bool> erased{false};
  ProgressTerminal terminal = fake.terminal(true);
  terminal.write = [&](std::string_view bytes) {
    fake.raw += bytes;
    fake.draws += bytes.size() > 4 ? 1 : 0;
    erased = bytes.size() == 4;
  };
  Progress bar({.label = "work", .unit = "step", .total = 10}, terminal);
  std::thread logger([] { log::info("a line"); });
  while (!erased) std::this_thread::yield();
  fake.now += 1;
  const int draws = fake.draws;
  bar.advance();
  EXPECT_EQ(fake.draws.load(), draws);
  std::vector<char> sink(1 << 17);
  EXPECT_GT(::read(ends[0], sink.data(), sink.size()), 0);
  logger.join();
  EXPECT_EQ(fake.draws.load(), draws + 1) << "the bar did not come back";

  ::dup2(true_error, STDERR_FILENO);
  spdlog::set_default_logger(true_logger);
  for (const int fd : {true_error, ends[0], ends[1]}) ::close(fd);
}

TEST(Progress, DumbAndQuietTerminalsGetNoBar) {
  const std::string dumb = on_a_terminal([] {
    ::setenv("TERM", "dumb", 1);
    log::start(false);
    Progress bar({.label = "work", .unit = "step", .total = 600});
    bar.advance(600);
    bar.finish();
  });
  EXPECT_EQ(dumb.find('\x1b'), std::string::npos) << dumb;
  EXPECT_NE(dumb.find("work: 600 step in"), std::string::npos) << dumb;
  const std::string quiet = on_a_terminal([] {
    ::setenv("TERM", "xterm", 1);
    log::start(true);
    Progress bar({.label = "work", .unit = "step", .total = 600});
    bar.advance(600);
    bar.finish();
  });
  EXPECT_EQ(quiet, "");
}

}  // namespace
}  // namespace t6
