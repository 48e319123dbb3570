// Whole runs on several ranks by mpirun: the same losses as one rank, the same bits by a tree, another number of ranks
// after a resume, signals, and ranks that no longer hold the same numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/rng.h"
#include "reliability/run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

class RunRanksHeavy : public RanksTest {
 protected:
  // Training and validation losses in the order of the log.
  std::vector<double> losses(const std::string& run) const {
    std::istringstream lines(metrics(run));
    std::vector<double> all;
    for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line).at("loss"));
    return all;
  }
  void expect_close(const std::string& run, const std::string& reference, double tolerance) const {
    const std::vector<double> a = losses(run), b = losses(reference);
    ASSERT_EQ(a.size(), b.size());
    ASSERT_GT(a.size(), 20u);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], tolerance * b[i]) << "line " << i + 1;
  }
  // Of each step of training: which tokens came so far, and the loss.
  // A run of `steps` in four parts, each resumed on another number of ranks; on 2 with sharded optimizer states.
  void train_on_1_2_4_and_1(const std::string& run, int steps, const Overrides& overrides) {
    int until = 0;
    for (const int world : {1, 2, 4, 1}) {
      Overrides part = overrides;
      part.push_back(fmt::format("train.steps={}", until += steps / 4));
      part.push_back(fmt::format("optimizer.zero={}", world == 2));
      const Outcome outcome = train_on(world, run, part);
      ASSERT_EQ(outcome.code, 0) << outcome.err;
    }
  }
  struct Steps {
    std::vector<std::string> hashes;
    std::vector<double> losses;
  };
  Steps steps(const std::string& run) const {
    std::istringstream lines(training_lines(run));
    Steps all;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      all.hashes.push_back(json.at("data_hash"));
      all.losses.push_back(json.at("loss"));
    }
    return all;
  }
  static double worst_of(const std::vector<double>& a, const std::vector<double>& b) {
    double worst = a.size() == b.size() ? 0 : 1;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) worst = std::max(worst, std::abs(a[i] - b[i]) / b[i]);
    return worst;
  }
};

// n ranks with micro-batches of 1 are one rank with micro-batches of n.
TEST_F(RunRanksHeavy, LossesAreThoseOfOneRank) {
  for (const int world : {2, 3, 4}) {
    const std::string one = fmt::format("one{}", world);
    ASSERT_EQ(train_on(1, one, {"train.steps=50", fmt::format("train.micro_batch={}", world)}).code, 0);
    for (const char* zero : {"false", "true"}) {
      const std::string run = "ranks" + std::to_string(world) + zero;
      const Outcome outcome = train_on(world, run, {"train.steps=50", std::string("optimizer.zero=") + zero});
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      expect_close(run, one, 1e-6);
      expect_checkpoints_intact(run);
    }
  }
}

// R12: the same tokens, and by a tree the same bits, whatever the number of ranks after each resume.
TEST_F(RunRanksHeavy, ResumesOnAnotherNumberOfRanksBitForBit) {
  const Overrides tree{"train.reduction=tree", "train.steps=40", "schedule.kind=constant"};
  ASSERT_EQ(train_on(1, "reference", tree).code, 0);
  train_on_1_2_4_and_1("run", 40, tree);
  ASSERT_FALSE(HasFailure());
  EXPECT_EQ(training_lines("run"), training_lines("reference"));
  measured("R12", "1, 2, 4 and 1 ranks after each other, on 2 with optimizer.zero: 40 steps with the bits of one rank");
}

// R12: without the tree the sums are rounded otherwise, and no more than that.
TEST_F(RunRanksHeavy, ResumesOnAnotherNumberOfRanksWithTheSameTokensAndLosses) {
  const Overrides constant{"train.steps=100", "schedule.kind=constant", "evaluation.every=0"};
  ASSERT_EQ(train_on(1, "reference", constant).code, 0);
  train_on_1_2_4_and_1("run", 100, constant);
  ASSERT_FALSE(HasFailure());
  const Steps run = steps("run"), reference = steps("reference");
  ASSERT_EQ(reference.hashes.size(), 100u);
  EXPECT_EQ(run.hashes, reference.hashes);
  const double worst = worst_of(run.losses, reference.losses);
  EXPECT_LT(worst, 1e-3);
  measured("R12", "1, 2, 4 and 1 ranks without the tree: 100 steps with the same tokens, losses within {:.0e}", worst);
}

// A resume that went on with other tokens is seen by both: the order is another one after 50 steps here.
TEST_F(RunRanksHeavy, ControlAResumeWithAnotherDataOrderIsFound) {
  const Overrides constant{"train.steps=100", "schedule.kind=constant", "evaluation.every=0"};
  ASSERT_EQ(train_on(1, "reference", constant).code, 0);
  Overrides part = constant;
  part[0] = "train.steps=50";
  ASSERT_EQ(train_on(1, "run", part).code, 0);
  const auto reseed = [](nlohmann::json& facts) {
    std::string config = facts.at("config");
    const size_t seed = config.find("seed: 0");
    ASSERT_NE(seed, std::string::npos) << config;
    facts["config"] = config.replace(seed, 7, "seed: 1");
  };
  rewrite_newest(
      "run", [](auto&, auto&) {}, reseed);
  Overrides other = constant;
  other.emplace_back("run.seed=1");
  const Outcome outcome = train_on(2, "run", other);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Steps run = steps("run"), reference = steps("reference");
  ASSERT_EQ(run.hashes.size(), 100u);
  EXPECT_EQ(run.hashes[49], reference.hashes[49]);
  EXPECT_NE(run.hashes[50], reference.hashes[50]);
  EXPECT_GT(worst_of(run.losses, reference.losses), 1e-3);
}

// R8: a signal to any one rank ends all after the same step, by their vote; what is resumed goes on as if there had
// been none.
TEST_F(RunRanksHeavy, ASignalToOneRankStopsAllAfterTheSameStep) {
  const Overrides endless{"train.steps=1000000", "train.max_runtime=60s", "schedule.kind=constant",
                          "checkpoint.every=0", "evaluation.every=0"};
  constexpr std::array kNumbers{SIGTERM, SIGUSR1, SIGINT};
  const int signals = figure(3, 50);
  const Philox random(31, RngPurpose::test);
  int64_t step = 0;
  for (int i = 0; i < signals; ++i) {
    const int number = kNumbers[static_cast<size_t>(i) % kNumbers.size()], victim = (i + 1) % 2;
    SCOPED_TRACE(fmt::format("signal {} to rank {} after step {}", number, victim, step));
    const pid_t launcher = start_ranks(2, "run", endless);
    ASSERT_TRUE(wait_for_step(launcher, "run", step + 1)) << finish(launcher).err;
    sleep_for(0.2 * random.uniform(static_cast<uint64_t>(i)));
    const pid_t process = process_of(victim);
    ASSERT_GT(process, 0);
    ::kill(process, number);
    const Outcome outcome = finish(launcher);
    ASSERT_EQ(outcome.code, 128 + number) << outcome.err;
    EXPECT_EQ(newest_step("run"), last_logged("run")) << "a step was lost";
    EXPECT_GT(newest_step("run"), step);
    step = newest_step("run");
    expect_no_process_left();
  }
  expect_checkpoints_intact("run");
  Overrides whole = endless;
  whole[0] = fmt::format("train.steps={}", step);
  ASSERT_EQ(train_on(2, "reference", whole).code, 0);
  EXPECT_TRUE(training_lines("run") == training_lines("reference")) << "resumed otherwise";
  EXPECT_FALSE(training_lines("reference").empty());
  measured(
      "R8",
      "{0} of {0} signals to one of 2 ranks at random instants: both ended the same step, saved, exit 128+n, and went "
      "on with the same bits over {1} steps",
      signals, step);
}

// R16 in a run: a rank whose update alone was another is found at the next comparison, and by nothing else.
TEST_F(RunRanksHeavy, ReplicasThatDivergeAreFoundWhereTheConfigAsks) {
  const Environment other_update{{"T6_POISON", "own:8:1:1:0.5"}};
  // The save of step 9 is under way when they are compared, and gets its name.
  Environment saving = other_update;
  saving["T6_SLOW_PAYLOAD"] = "100";
  const Overrides steps{"train.steps=20", "train.global_batch=4"};
  Overrides checked = steps;
  for (const char* more : {"run.check_replicas=10", "checkpoint.every=9", "checkpoint.async=true"}) {
    checked.emplace_back(more);
  }
  const Outcome good = drive_on(2, "good", {}, checked);
  EXPECT_EQ(good.code, 0) << good.err;
  const Outcome found = drive_on(2, "found", saving, checked);
  EXPECT_EQ(found.code, 5) << found.err;
  EXPECT_TRUE(contains(found.err, " of rank 1 differs")) << found.err;
  EXPECT_EQ(messages(found.err).size(), 1u) << found.err;
  EXPECT_EQ(last_logged("found"), 10);
  EXPECT_EQ(newest_step("found"), 9);
  expect_checkpoints_intact("found");
  const Outcome unasked = drive_on(2, "unasked", other_update, steps);
  EXPECT_EQ(unasked.code, 0) << unasked.err;
  measured("R16",
           "a run with run.check_replicas: 10 on 2 ranks, one with another update in step 8, ended after step 10");
}

}  // namespace
}  // namespace t6::test
