// Every attention kind learns what only attention can: the text repeats eight drawn ids six times, then draws anew, so
// nothing but the id eight places before says what comes next.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/rng.h"
#include "run_support.h"

namespace t6::test {
namespace {

constexpr uint32_t kIds = 16, kPeriod = 8, kRepeats = 6;
constexpr int kTrainSteps = 300;
// ln 16 = 2.77 nats without attention. A window of 32 cannot know its first eight ids and, in the mean, four others:
// about 1 is left.
constexpr double kLearned = 1.6;
// Between f32 and bf16, in nats: the mean over the first hundred steps, the farthest of them (where the loss falls
// steeply, a step too late shows), and the end.
constexpr int kCompared = 100;
constexpr double kMeanTolerance = 0.03, kStepTolerance = 0.3, kEndTolerance = 0.1;

std::vector<uint32_t> repeating_ids(size_t count, uint32_t salt) {
  const Philox random(salt, RngPurpose::test);
  std::vector<uint32_t> ids;
  for (uint64_t draw = 0; ids.size() < count; draw += kPeriod) {
    for (uint32_t i = 0; i < kPeriod * kRepeats; ++i) {
      ids.push_back(static_cast<uint32_t>(random.below(draw + i % kPeriod, kIds)));
    }
  }
  ids.resize(count);
  return ids;
}

class RunLearningHeavy : public RunTest, public testing::WithParamInterface<std::pair<const char*, const char*>> {
 protected:
  struct Losses {
    std::vector<double> train;
    double validation = 0;
  };
  Losses losses(const std::string& run) const {
    Losses all;
    std::istringstream lines(metrics(run));
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json["kind"] == "train") all.train.push_back(json["loss"]);
      if (json["kind"] == "validation") all.validation = json["loss"];
    }
    return all;
  }
  Losses learn(const std::string& precision) {
    data::testing::write_file(folder() / "train.bin", data::testing::bin16(repeating_ids(100000, 1)));
    data::testing::write_file(folder() / "val.bin", data::testing::bin16(repeating_ids(4000, 2)));
    const auto& [kind, options] = GetParam();
    data::testing::write_file(folder() / "kind.yaml",
                              fmt::format("model: {{attention: {}, layers: 2, width: 64, heads: 4, head_width: 16, "
                                          "vocab_size: 16, context: 32{}}}\n"
                                          "data: {{train: [train.bin], validation: [val.bin]}}\n"
                                          "train: {{steps: {}, global_batch: 8, micro_batch: 8, precision: {}}}\n"
                                          "optimizer: {{lr: 5e-3, min_lr: 5e-4}}\n"
                                          "schedule: {{warmup_steps: 10}}\n"
                                          "evaluation: {{every: 0, windows: 0}}\n",
                                          kind, options, kTrainSteps, precision));
    const Outcome outcome = finish(start_program({"train", "--config", "kind.yaml", "run.dir=" + precision}, {}));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return losses(precision);
  }
};

TEST_P(RunLearningHeavy, FarBelowTheUnigramEntropyInBothPrecisions) {
  const double entropy = unigram_entropy(repeating_ids(4000, 2));
  EXPECT_GT(entropy, 2.7);
  const Losses f32 = learn("f32"), bf16 = learn("bf16");
  ASSERT_EQ(f32.train.size(), kTrainSteps);
  ASSERT_EQ(bf16.train.size(), kTrainSteps);
  EXPECT_NEAR(f32.train[0], std::sqrt(64.0 / 3), 1.0);
  EXPECT_LT(f32.validation, kLearned);
  EXPECT_LT(bf16.validation, kLearned);
  double worst = 0, mean = 0;
  for (size_t i = 0; i < kCompared; ++i) {
    worst = std::max(worst, std::abs(f32.train[i] - bf16.train[i]));
    mean += std::abs(f32.train[i] - bf16.train[i]) / kCompared;
  }
  std::printf("%s: %.3f -> %.4f f32, %.4f bf16, entropy %.3f; apart %.4f in the mean, %.4f at most\n", GetParam().first,
              f32.train[0], f32.validation, bf16.validation, entropy, mean, worst);
  EXPECT_GT(worst, 0) << "bf16 computed the same";
  EXPECT_LT(mean, kMeanTolerance);
  EXPECT_LT(worst, kStepTolerance);
  EXPECT_NEAR(f32.validation, bf16.validation, kEndTolerance);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RunLearningHeavy,
                         testing::Values(std::pair("mha", ""), std::pair("mqa", ""),
                                         std::pair("gqa", ", gqa: {kv_heads: 2}"),
                                         std::pair("mla", ", mla: {q_rank: 16, kv_rank: 16, rope_width: 8}"),
                                         std::pair("tpa", ", tpa: {rank_q: 3, rank_k: 2, rank_v: 2}"),
                                         std::pair("tpa_kvonly", ", tpa_kvonly: {rank_k: 2, rank_v: 2}")),
                         [](const auto& test) { return std::string(test.param.first); });

}  // namespace
}  // namespace t6::test
