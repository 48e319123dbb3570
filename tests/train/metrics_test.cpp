#include "train/metrics.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/append_file.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;

class MetricsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("t6_metrics_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path log() const { return folder_ / "metrics.jsonl"; }
  std::string log_text() const { return io::read_text(log()); }

  fs::path folder_;
};

// A step of a run, the same whenever it is done; only the times differ.
void do_step(MetricsWriter& writer, int64_t step, double ms) {
  StepMetrics m;
  m.step = step;
  m.loss = 4.0 / std::sqrt(static_cast<double>(step));
  m.lr = 6e-4 / static_cast<double>(step);
  m.grad_norm = 0.1 * static_cast<double>(step);
  m.tokens_seen = static_cast<uint64_t>(step) * 4096;
  m.data_hash = std::to_string(step * 7919);
  m.step_ms = ms;
  writer.train(m);
  if (step % 4 == 0) writer.validation({step, m.loss + 0.1, m.tokens_seen, 1000, ms});
}

TEST(ConsoleLine, HasTheAgreedForm) {
  StepMetrics m;
  m.step = 1200;
  m.steps = 100000;
  m.loss = 3.21449;
  m.lr = 6e-4;
  m.grad_norm = 0.4212;
  m.step_ms = 512.3;
  m.tokens_per_second = 958'900;
  m.mfu = 0.41249;
  m.memory_bytes = 33'500'000'000;
  m.tokens_seen = 589'824'000;
  m.eta_seconds = 13 * 3600 + 42 * 60;
  EXPECT_EQ(console_line(m),
            "step 1200/100000 | loss 3.2145 | lr 6.0e-04 | gnorm 0.42 | 512 ms | 959k tok/s | mfu 41.2% | mem 31.2G | "
            "0.59B tok "
            "| eta 13h42m");
}

TEST(ConsoleLine, LeavesOutWhatIsUnknown) {
  StepMetrics m;
  m.step = 3;
  m.loss = 10.8;
  m.tokens_seen = 12288;
  EXPECT_EQ(console_line(m), "step 3 | loss 10.8000 | lr 0.0e+00 | 12.3k tok");
  m.grad_norm = 0.00042;
  m.step_ms = 4.26;
  m.loss = std::nan("");
  EXPECT_EQ(console_line(m), "step 3 | loss nan | lr 0.0e+00 | gnorm 4.2e-04 | 4.3 ms | 12.3k tok");
  m.grad_norm = 0;
  m.step_ms = 10'400;
  EXPECT_EQ(console_line(m), "step 3 | loss nan | lr 0.0e+00 | gnorm 0.00 | 10.4s | 12.3k tok");
}

TEST(ConsoleLine, OfAValidation) {
  EXPECT_EQ(console_line(ValidationMetrics{1200, 3.19869, 0, 1'048'576, 12'300}),
            "step 1200 | validation loss 3.1987 | perplexity 24.50 | 1.05M tok in 12.3s");
}

TEST_F(MetricsTest, LinesHoldExactNumbersAndNoTimes) {
  MetricsWriter writer(folder_, std::nullopt);
  StepMetrics m;
  m.step = 1;
  m.loss = 0.1 + 0.2;
  m.lr = std::numeric_limits<double>::infinity();
  m.clip = 0.5;
  m.tokens_seen = 4096;
  m.step_ms = 12.5;
  m.mfu = 0.25;
  writer.train(m);
  writer.process_event(1, "checkpoint", {{"step", 99}, {"bytes", 12}});
  EXPECT_EQ(log_text(),
            "{\"kind\":\"train\",\"step\":1,\"loss\":0.30000000000000004,\"lr\":null,\"clip\":0.5,\"tokens\":4096}\n");
  const std::string timing = io::read_text(folder_ / "timing.jsonl");
  EXPECT_EQ(timing.find("{\"kind\":\"train\",\"step\":1,\"ms\":12.5,\"mfu\":0.25,\"time\":"), 0U) << timing;
  EXPECT_NE(timing.find("{\"kind\":\"process\",\"step\":1,\"event\":\"checkpoint\",\"bytes\":12,\"time\":"),
            std::string::npos)
      << timing;
}

TEST_F(MetricsTest, KillAndResumeGivesTheSameBytesAtEveryInstant) {
  {
    MetricsWriter writer(folder_, std::nullopt);
    for (int64_t step = 1; step <= 8; ++step) do_step(writer, step, 10);
  }
  const std::string whole = log_text();
  // Killed after any (third) byte that was written behind the checkpoint of `resumed`; the torn rest is what the file
  // then ends with.
  for (const int64_t resumed : {0, 4, 6, 8}) {
    size_t committed = 0;
    for (size_t at = 0; at < whole.size(); at = whole.find('\n', at) + 1) {
      const auto line = nlohmann::json::parse(whole.substr(at, whole.find('\n', at) - at));
      if (line["step"].get<int64_t>() <= resumed) committed = whole.find('\n', at) + 1;
    }
    for (size_t killed = committed; killed <= whole.size(); killed += killed + 3 < whole.size() ? 3 : 1) {
      io::File::create(log()).write_all(whole.substr(0, killed));
      fs::remove(folder_ / "timing.jsonl");
      MetricsWriter writer(folder_, resumed);
      ASSERT_EQ(writer.last_step(), resumed == 0 ? -1 : resumed);
      for (int64_t step = resumed + 1; step <= 8; ++step) do_step(writer, step, 99);
      ASSERT_EQ(log_text(), whole) << "resumed from " << resumed << ", killed after byte " << killed;
    }
  }
}

TEST_F(MetricsTest, AFreshStartEmptiesTheLogAndAResumeKeepsStepZero) {
  {
    MetricsWriter writer(folder_, std::nullopt);
    writer.validation({0, 10.8, 0, 100, 1});
    do_step(writer, 1, 1);
  }
  {
    MetricsWriter writer(folder_, 0);
    EXPECT_EQ(writer.last_step(), 0);
  }
  EXPECT_NE(log_text().find("10.8"), std::string::npos);
  MetricsWriter writer(folder_, std::nullopt);
  EXPECT_EQ(log_text(), "");
  EXPECT_EQ(writer.last_step(), -1);
}

TEST_F(MetricsTest, AWholeLastLineWithoutItsNewlineIsKept) {
  io::write_text_atomically(log(), "{\"kind\":\"train\",\"step\":1}\n{\"kind\":\"train\",\"step\":2}");
  EXPECT_EQ(keep_lines_until(log(), 2), 2);
  EXPECT_EQ(log_text(), "{\"kind\":\"train\",\"step\":1}\n{\"kind\":\"train\",\"step\":2}\n");
}

TEST_F(MetricsTest, DamagedLinesAreRemoved) {
  const std::string zeros(3, '\0');  // a block that a power cut left unwritten
  io::write_text_atomically(log(),
                            "{\"step\":1}\n" + zeros + "\n[1]\n{\"step\":-1}\n{\"step\":\"2\"}\n{}\n{\"step\":2}\n");
  EXPECT_EQ(keep_lines_until(log(), 5), 2);
  EXPECT_EQ(log_text(), "{\"step\":1}\n{\"step\":2}\n");
}

TEST_F(MetricsTest, TimingKeepsItsHistory) {
  {
    MetricsWriter writer(folder_, std::nullopt);
    for (int64_t step = 1; step <= 3; ++step) do_step(writer, step, 10);
  }
  std::string before = io::read_text(folder_ / "timing.jsonl");
  io::write_text_atomically(folder_ / "timing.jsonl", before + "{\"kind\":\"tr");
  MetricsWriter writer(folder_, 1);
  do_step(writer, 2, 11);
  EXPECT_EQ(io::read_text(folder_ / "timing.jsonl").find(before + "{\"kind\":\"train\",\"step\":2,\"ms\":11.0"), 0U);
}

TEST_F(MetricsTest, TextThatIsNoUtf8DoesNotEndTheRun) {
  MetricsWriter writer(folder_, std::nullopt);
  writer.process_event(1, "note", {{"file", "a\xff"}});
  EXPECT_TRUE(nlohmann::json::accept(io::read_text(folder_ / "timing.jsonl")));
}

TEST_F(MetricsTest, SaysHowFarTheStartsBeforeCame) {
  const LoggedRun none = read_logged_run(folder_);
  EXPECT_EQ(none.last_step, -1);
  EXPECT_FALSE(none.saved_step);
  {
    MetricsWriter writer(folder_, std::nullopt);
    writer.process_event(0, "start", Json::object());
    for (int64_t step = 1; step <= 5; ++step) do_step(writer, step, 10);
  }
  EXPECT_EQ(read_logged_run(folder_).last_step, 5);
  EXPECT_FALSE(read_logged_run(folder_).saved_step);
  {
    MetricsWriter writer(folder_, 5);
    writer.process_event(5, "checkpoint", {{"bytes", 12}});
    do_step(writer, 6, 10);
  }
  for (const char* name : {"metrics.jsonl", "timing.jsonl"}) {
    std::ofstream(folder_ / name, std::ios::app) << "{\"kind\":\"train\",\"step\":7,\"lo";  // a kill
  }
  EXPECT_EQ(read_logged_run(folder_).last_step, 6);
  EXPECT_EQ(read_logged_run(folder_).saved_step, 5);
}

// A limit on file sizes, as a full disk: part of a write goes through, then it fails.
class SmallFiles {
 public:
  explicit SmallFiles(rlim_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const struct rlimit limit { bytes, old_.rlim_max };
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  SmallFiles(const SmallFiles&) = delete;
  SmallFiles& operator=(const SmallFiles&) = delete;
  ~SmallFiles() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  struct rlimit old_ {};
  void (*old_handler_)(int) = SIG_DFL;
};

TEST_F(MetricsTest, AFullDiskLosesNothing) {
  AppendFile file(folder_ / "f");
  file.append("one\n");
  {
    SmallFiles full(6);
    file.append("two\n");
    file.append("three\n");
    EXPECT_EQ(file.pending_bytes(), 10U);
    try {
      file.sync();
      FAIL() << "sync() said all was written";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::io);
    }
  }
  file.append("four\n");
  EXPECT_EQ(file.pending_bytes(), 0U);
  EXPECT_EQ(io::read_text(folder_ / "f"), "one\ntwo\nthree\nfour\n");
}

TEST_F(MetricsTest, AFileMadeAnewHasADurableName) {
  std::vector<std::string> calls;
  const auto record = [&] {
    calls.clear();
    io::set_fault_hook([&](io::DiskCall call, const std::filesystem::path& path, size_t&) {
      calls.push_back(std::string(io::name_of(call)) + " " + path.filename().string());
      return 0;
    });
  };
  const std::string parent = folder_.filename().string();
  record();
  AppendFile(folder_ / "f").append("one\n");
  EXPECT_EQ(calls, (std::vector<std::string>{"create f", "sync_directory " + parent, "write f"}));
  record();
  AppendFile(folder_ / "f").append("two\n");
  EXPECT_EQ(calls, (std::vector<std::string>{"create f", "write f"}));
  io::set_fault_hook({});
}

TEST_F(MetricsTest, AFullDiskEndsTheRunOnceTooMuchWaits) {
  AppendFile file(folder_ / "f");
  SmallFiles full(0);
  const std::string block(size_t{8} << 20, 'x');
  for (size_t i = 0; i < AppendFile::kMaxPending / block.size(); ++i) file.append(block);
  try {
    file.append(block);
    FAIL() << "more than kMaxPending waits and nothing was said";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::io);
    EXPECT_NE(std::string(error.what()).find((folder_ / "f").string()), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace t6::train
