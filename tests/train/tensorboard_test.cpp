#include "train/tensorboard.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <map>
#include <variant>
#include <vector>

#include "base/io.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;

// A protocol buffer without its schema: field number to values, in order.
struct Message {
  std::multimap<uint32_t, std::variant<uint64_t, std::string>> fields;

  bool has(uint32_t field) const { return fields.count(field) != 0; }
  uint64_t number(uint32_t field) const { return std::get<uint64_t>(fields.find(field)->second); }
  std::string bytes(uint32_t field) const { return std::get<std::string>(fields.find(field)->second); }
  Message message(uint32_t field) const { return parse(bytes(field)); }
  std::vector<Message> messages(uint32_t field) const {
    std::vector<Message> result;
    for (auto [at, end] = fields.equal_range(field); at != end; ++at)
      result.push_back(parse(std::get<std::string>(at->second)));
    return result;
  }

  static uint64_t little_endian(const std::string& bytes, size_t at, size_t count) {
    uint64_t value = 0;
    for (size_t i = 0; i < count; ++i) value |= uint64_t{static_cast<uint8_t>(bytes.at(at + i))} << (8 * i);
    return value;
  }

  static Message parse(const std::string& bytes) {
    Message message;
    size_t at = 0;
    const auto varint = [&] {
      uint64_t value = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<uint8_t>(bytes.at(at++));
        value |= uint64_t{byte & 0x7FU} << shift;
        if (byte < 0x80) return value;
      }
    };
    while (at < bytes.size()) {
      const uint64_t key = varint();
      const auto field = static_cast<uint32_t>(key >> 3);
      switch (key & 7) {
        case 0:
          message.fields.emplace(field, varint());
          break;
        case 1:
          message.fields.emplace(field, little_endian(bytes, at, 8));
          at += 8;
          break;
        case 5:
          message.fields.emplace(field, little_endian(bytes, at, 4));
          at += 4;
          break;
        case 2: {
          const uint64_t size = varint();
          if (size > bytes.size() - at) throw std::out_of_range("field");
          message.fields.emplace(field, bytes.substr(at, size));
          at += size;
          break;
        }
        default:
          throw std::out_of_range("wire type");
      }
    }
    return message;
  }
};

uint32_t unmask(uint32_t masked) {
  return std::rotl(masked - 0xA282EAD8U, 15);
}

// The events of a file; checks the framing.
std::vector<Message> read_events(const fs::path& path) {
  const std::string bytes = io::read_text(path);
  std::vector<Message> events;
  for (size_t at = 0; at < bytes.size();) {
    const uint64_t size = Message::little_endian(bytes, at, 8);
    EXPECT_EQ(unmask(static_cast<uint32_t>(Message::little_endian(bytes, at + 8, 4))), crc32c(bytes.substr(at, 8)));
    const std::string payload = bytes.substr(at + 12, size);
    EXPECT_EQ(payload.size(), size);
    EXPECT_EQ(unmask(static_cast<uint32_t>(Message::little_endian(bytes, at + 12 + size, 4))), crc32c(payload));
    events.push_back(Message::parse(payload));
    at += 16 + size;
  }
  return events;
}

float simple_value(const Message& value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.number(2)));
}

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
