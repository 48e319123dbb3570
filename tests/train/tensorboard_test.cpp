#include "train/tensorboard.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <map>
#include <vector>

#include "base/io.h"
#include "support/events.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;
using test::Message;
using test::read_events;
using test::simple_value;

class TensorBoardTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("t6_tensorboard_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST(Crc32c, KnownValues) {
  // RFC 3720, appendix B.4.
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43U);
  EXPECT_EQ(crc32c(""), 0U);
}

TEST_F(TensorBoardTest, ScalarsComeBack) {
  StepMetrics m;
  m.step = 300;
  m.loss = 3.25;
  m.lr = 6e-4;
  m.grad_norm = 0.5;
  m.tokens_seen = 1 << 20;
  m.step_ms = 12;
  m.mfu = 0.25;
  TensorBoardWriter writer(folder_, std::nullopt);
  writer.train(m);
  writer.validation({int64_t{1} << 40, 2.0, 0, 0, 0});
  const std::vector<Message> events = read_events(writer.path());
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[0].bytes(3), "brain.Event:2");
  EXPECT_FALSE(events[0].has(2));
  EXPECT_GT(std::bit_cast<double>(events[0].number(1)), 1.6e9);
  EXPECT_EQ(events[1].message(7).number(1), 1U);
  EXPECT_EQ(events[1].number(2), 0U);

  EXPECT_EQ(events[2].number(2), 300U);
  std::map<std::string, float> values;
  for (const Message& value : events[2].message(5).messages(1)) values[value.bytes(1)] = simple_value(value);
  EXPECT_EQ(values, (std::map<std::string, float>{{"train/loss", 3.25F},
                                                  {"train/lr", 6e-4F},
                                                  {"train/grad_norm", 0.5F},
                                                  {"train/tokens", 1048576.0F},
                                                  {"timing/ms", 12.0F},
                                                  {"timing/mfu", 0.25F}}));
  EXPECT_EQ(events[3].number(2), uint64_t{1} << 40);
  const auto validation = events[3].message(5).messages(1);
  ASSERT_EQ(validation.size(), 2U);
  EXPECT_EQ(validation[1].bytes(1), "validation/perplexity");
  EXPECT_EQ(simple_value(validation[1]), std::exp(2.0F));

  writer.train({});
  EXPECT_EQ(read_events(writer.path()).at(4).message(5).messages(1).size(), 3U)
      << "loss, lr and tokens are always known";
}

TEST_F(TensorBoardTest, TextsComeBack) {
  TensorBoardWriter writer(folder_, std::nullopt);
  const std::string text = "model:\n  attention: tpa # " + std::string(130, 'x');
  writer.text(7, "config", text);
  const auto events = read_events(writer.path());
  ASSERT_EQ(events.size(), 3U);
  const Message value = events[2].message(5).message(1);
  EXPECT_EQ(value.bytes(1), "config");
  EXPECT_EQ(value.message(8).number(1), 7U);
  EXPECT_EQ(value.message(8).bytes(8), text);
  EXPECT_EQ(value.message(8).message(2).message(2).number(1), 1U);
  EXPECT_EQ(value.message(9).message(1).bytes(1), "text");
  EXPECT_EQ(value.message(9).number(4), 2U);
}

TEST_F(TensorBoardTest, EachStartHasALaterFileAndSaysWhereItGoesOn) {
  fs::path last;
  for (int start = 0; start < 3; ++start) {
    TensorBoardWriter writer(folder_, start == 0 ? std::nullopt : std::optional<int64_t>(10 * start));
    EXPECT_LT(last.filename().string(), writer.path().filename().string());
    last = writer.path();
    const auto events = read_events(writer.path());
    ASSERT_EQ(events.size(), 2U);
    EXPECT_EQ(events[1].number(2), start == 0 ? 0U : 10U * start + 1);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 3);
}

TEST_F(TensorBoardTest, RecordsAreThereWithoutAFlush) {
  TensorBoardWriter writer(folder_, std::nullopt);
  for (int64_t step = 1; step <= 50; ++step) {
    writer.scalars(step, std::vector<TensorBoardWriter::Scalar>{{"x", static_cast<double>(step)}});
    ASSERT_EQ(read_events(writer.path()).size(), static_cast<size_t>(step) + 2);
  }
  writer.scalars(51, {});
  EXPECT_EQ(read_events(writer.path()).size(), 52U);
}

// With the tensorboard package (python3 or the interpreter named by T6_PYTHON), its own reader must see what
// metrics.jsonl says, across a kill and a resume.
TEST_F(TensorBoardTest, TheTensorBoardPackageReadsTheSame) {
  const auto run_steps = [this](std::optional<int64_t> resumed, int64_t first, int64_t last) {
    MetricsWriter metrics(folder_, resumed);
    TensorBoardWriter board(folder_ / "tensorboard", resumed);
    board.text(first, "config", "model: {attention: tpa}\n");
    for (int64_t step = first; step <= last; ++step) {
      StepMetrics m;
      m.step = step;
      m.loss = step == 33 ? std::nan("") : 10.0 / std::sqrt(static_cast<double>(step));
      m.lr = 1e-3 / static_cast<double>(step);
      m.grad_norm = 1.0 / 3.0 * static_cast<double>(step);
      m.tokens_seen = static_cast<uint64_t>(step) * 4096;
      m.step_ms = 3;
      metrics.train(m);
      board.train(m);
      if (step % 10 != 0) continue;
      const ValidationMetrics v{step, m.loss + 0.1, m.tokens_seen, 1000, 5};
      metrics.validation(v);
      board.validation(v);
    }
  };
  fs::create_directories(folder_);
  io::write_text_atomically(folder_ / "resolved.yaml", "model: {attention: tpa}\n");
  run_steps(std::nullopt, 1, 57);
  run_steps(40, 41, 45);
  run_steps(40, 41, 80);
  const char* python = std::getenv("T6_PYTHON");
  const std::string command = fmt::format("{} '{}/scripts/check_tensorboard.py' '{}'",
                                          python != nullptr ? python : "python3", T6_SOURCE_DIR, folder_.string());
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127)
    GTEST_SKIP() << "no python3 with the tensorboard package";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace t6::train
