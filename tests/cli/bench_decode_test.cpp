// t6 bench decode on a tiny model: what it prints, how lengths are understood, and what it refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "cli/tiny_model.h"
#include "tensor/gpu.h"

namespace t6::test {
namespace {

using nlohmann::json;

class BenchDecode : public Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    write("tiny.yaml", kTinyModel);
    std::string other = kTinyModel;
    other.replace(other.find("tpa\n"), 3, "mha");
    other.resize(other.find("  tpa:"));
    write("other.yaml", other);
  }
  Outcome bench(std::vector<std::string> more) {
    std::vector<std::string> words{"bench", "decode", "--tokens", "2"};
    if (std::find(more.begin(), more.end(), "--device") == more.end()) more.insert(more.end(), {"--device", "cpu"});
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  }
  json measured(std::vector<std::string> more) {
    more.push_back("--json");
    const Outcome outcome = bench(more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.code == 0 ? json::parse(outcome.out) : json();
  }
  void expect_refused(const std::vector<std::string>& more, const std::string& message) {
    const Outcome outcome = bench(more);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, message));
  }
};

TEST_F(BenchDecode, SaysBytesBesideTime) {
  // Longer than the model's context: only time is asked for.
  const json found = measured({"--config", "tiny.yaml", "--config", "other.yaml", "--lengths", "100", "16..64",
                               "--precision", "f32", "bf16", "--batch", "3"});
  EXPECT_EQ(found.at("device"), "cpu");
  EXPECT_EQ(found.at("batch"), 3);
  EXPECT_EQ(found.at("tokens"), 2);
  ASSERT_EQ(found.at("models").size(), 4);
  for (size_t i = 0; i < 4; ++i) {
    const json& model = found.at("models").at(i);
    const double rate = model.at("measured_read_gigabytes_per_second");
    EXPECT_GT(rate, 0);
    const double element = i % 2 == 0 ? 4 : 2, numbers = i < 2 ? 2 * 2 * (4 + 8) : 2 * 2 * 4 * 8;
    EXPECT_EQ(model.at("config"), i < 2 ? "tiny" : "other");
    EXPECT_EQ(model.at("kind"), i < 2 ? "tpa" : "mha");
    EXPECT_EQ(model.at("precision"), i % 2 == 0 ? "f32" : "bf16");
    EXPECT_EQ(model.at("cache_bytes_per_token"), element * numbers);
    EXPECT_EQ(model.at("weight_bytes"), element * model.at("parameters").get<double>());
    std::vector<int64_t> lengths;
    for (const json& point : model.at("points")) {
      lengths.push_back(point.at("length"));
      // The tokens of the warm-up and half of the measured ones come on top.
      const double cached = lengths.back() + 3.5;
      EXPECT_NEAR(point.at("cache_bytes").get<double>(), 3 * cached * element * numbers, 1e-6);
      EXPECT_EQ(point.at("bytes_per_step"),
                point.at("cache_bytes").get<double>() + model.at("weight_bytes").get<double>());
      EXPECT_GT(point.at("milliseconds"), 0);
      EXPECT_LE(point.at("best_milliseconds"), point.at("milliseconds"));
      EXPECT_GT(point.at("attention_milliseconds"), 0);
      EXPECT_LT(point.at("attention_milliseconds"), point.at("milliseconds"));
      const double gigabytes = point.at("gigabytes_per_second");
      EXPECT_NEAR(gigabytes * point.at("milliseconds").get<double>() * 1e6, point.at("bytes_per_step"),
                  1e-6 * point.at("bytes_per_step").get<double>());
      EXPECT_NEAR(point.at("share_of_read_rate").get<double>(), gigabytes / rate, 1e-9);
      EXPECT_NEAR(point.at("tokens_per_second").get<double>() * point.at("milliseconds").get<double>(), 3000, 1e-3);
      EXPECT_GT(point.at("attention_gigabytes_per_second"), 0);
    }
    EXPECT_EQ(lengths, (std::vector<int64_t>{16, 32, 64, 100}));
  }
}

TEST_F(BenchDecode, PrintsATableAndDrawsAPlot) {
  const Outcome text = bench({"--config", "tiny.yaml", "--lengths", "8..32"});
  ASSERT_EQ(text.code, 0) << text.err;
  for (const char* word : {"cache B/token", "of memory", "tiny", "milliseconds a step", "cached"}) {
    EXPECT_TRUE(contains(text.out, word));
  }
  const Outcome file = bench({"--config", "tiny.yaml", "--lengths", "8..32", "--out", "plot.svg"});
  ASSERT_EQ(file.code, 0) << file.err;
  EXPECT_TRUE(contains(file.out, "plot.svg: the curves of 1 model"));
  EXPECT_TRUE(contains(read("plot.svg"), "Time of a decoded token against cached tokens"));
}

TEST_F(BenchDecode, TakesShippedConfigsByKind) {
  write("shipped/t6_tpa_medium.yaml", kTinyModel);
  const json found =
      measured({"--kinds", "tpa", "--size", "medium", "--configs", "shipped", "--lengths", "16", "--threads", "1"});
  ASSERT_EQ(found.at("models").size(), 1);
  EXPECT_EQ(found.at("models").at(0).at("config"), "t6_tpa_medium");
  EXPECT_EQ(found.at("threads"), 1);
}

// Factors, and the one wide row that mla caches as published.
TEST_F(BenchDecode, OnAGpu) {
  std::string latent = kTinyModel;
  latent.replace(latent.find("tpa\n"), 3, "mla");
  latent.resize(latent.find("  tpa:"));
  write("latent.yaml", latent);
  const std::vector<std::string> on_gpu{"--config", "tiny.yaml",   "--config", "latent.yaml", "--lengths",
                                        "16",       "--precision", "bf16",     "--device",    "cuda"};
  if (gpu::count() == 0) {
    expect_refused(on_gpu, "--device cuda asks for a GPU");
    return;
  }
  const json found = measured(on_gpu);
  EXPECT_EQ(found.at("device"), "cuda");
  EXPECT_EQ(found.at("device_name"), gpu::info(0).name);
  ASSERT_EQ(found.at("models").size(), 2);
  for (const json& model : found.at("models")) {
    const json& point = model.at("points").at(0);
    EXPECT_GT(point.at("attention_milliseconds"), 0) << model.at("config");
    // 16 tokens, two to warm up, two steps, and two more in which kernels are timed.
    const double a_token = model.at("cache_bytes_per_token");
    EXPECT_EQ(point.at("cache_bytes"), a_token * 19.5) << model.at("config");
    EXPECT_EQ(point.at("attention_cache_bytes"), a_token * 21.5) << model.at("config");
  }
}

TEST_F(BenchDecode, RefusesWhatItDoesNotUnderstand) {
  for (const char* lengths : {"0", "x", "16..", "..16", "64..16", "1..2000000", "-5", "16...32", ""}) {
    expect_refused({"--config", "tiny.yaml", "--lengths", lengths}, "expected a length from 1 to 1048576 or a range");
  }
  expect_refused({"--kinds", "mqha"}, "did you mean");
  expect_refused({"--config", "tiny.yaml", "--batch", "0"}, "--batch");
  expect_refused({"--config", "tiny.yaml", "--lengths", "16", "--out", "plot.png"}, "ends in .svg");
  expect_refused({"--config", "nowhere.yaml"}, "nowhere.yaml");
  expect_refused({"--config", "tiny.yaml", "--lengths", "1048576", "--batch", "65536"}, "this machine has");
}

}  // namespace
}  // namespace t6::test
