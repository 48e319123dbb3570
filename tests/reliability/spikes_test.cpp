// R14, R15 for whole runs: steps that leap or are not finite are logged, skipped or end the run, on all ranks alike;
// what is skipped survives a kill bit for bit.
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/rng.h"
#include "dist/mpi.h"
#include "dist/ranks_run.h"
#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;

// The driver's run, whose losses or gradients go bad at certain steps. A window that is short enough for 60 steps, and
// a learning rate at which nothing else leaps.
class RunSpikes : public RunTest {
 protected:
  static Overrides with(const Overrides& more) {
    Overrides all{"spikes.window=16", "spikes.sigma=8"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Outcome train_poisoned(const std::string& run, const std::string& poison, const Overrides& overrides) {
    return drive(run, {{"T6_POISON", poison}}, with(overrides));
  }
  // Steps whose line of the loss log has this mark.
  std::vector<int64_t> marked(const std::string& run, const char* mark) const {
    std::istringstream lines(metrics(run));
    std::vector<int64_t> steps;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.value(mark, false)) steps.push_back(json.at("step"));
    }
    return steps;
  }
  nlohmann::json detector(const std::string& run, int64_t step = kSteps) const {
    return nlohmann::json::parse(read_file(manifest(run, step))).at("scalars").at("spikes");
  }
};

using Steps = std::vector<int64_t>;

TEST_F(RunSpikes, ASpikeIsLoggedSkippedOrEndsTheRun) {
  const std::string spike = "loss:42:0:1:10000";
  const Outcome logged = train_poisoned("log", spike, {});
  ASSERT_EQ(logged.code, 0) << logged.err;
  EXPECT_TRUE(contains(logged.err, "step 42: loss ")) << logged.err;
  EXPECT_TRUE(contains(logged.err, "(limit ")) << logged.err;
  EXPECT_EQ(marked("log", "spike"), Steps{42});
  EXPECT_EQ(marked("log", "skipped"), Steps{});

  const Outcome skipped = train_poisoned("skip", spike, {"spikes.action=skip"});
  ASSERT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_TRUE(contains(skipped.err, "spikes.action: skip; 1 in a row, 1 of the run")) << skipped.err;
  EXPECT_EQ(marked("skip", "spike"), Steps{42});
  EXPECT_EQ(marked("skip", "skipped"), Steps{42});
  EXPECT_EQ(last_logged("skip"), kSteps);  // every step counts
  EXPECT_EQ(detector("skip").at("skipped"), 1);
  // The same losses up to the step that was not applied, others after it.
  const auto until = [&](const std::string& run, int64_t step) {
    return metrics(run).substr(0, metrics(run).find(fmt::format("{{\"kind\":\"train\",\"step\":{},", step)));
  };
  EXPECT_EQ(until("skip", 42), until("log", 42));
  EXPECT_NE(read_file(payload("skip", kSteps)), read_file(payload("log", kSteps)));

  const Outcome stopped = train_poisoned("stop", spike, {"spikes.action=stop"});
  EXPECT_EQ(stopped.code, 5) << stopped.err;
  for (const char* part :
       {"step 42: ", "loss ", " leapt", "(limit ", "gradient norm ", "nothing of it was applied", "spikes.action"}) {
    EXPECT_TRUE(contains(stopped.err, part)) << part << " in " << stopped.err;
  }
  EXPECT_EQ(newest_step("stop"), 40);
  EXPECT_EQ(last_logged("stop"), 41);
  // Goes on from there, and is the run that skipped from the start.
  const Outcome resumed = train_poisoned("stop", spike, {"spikes.action=skip"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  expect_equal_runs("stop", "skip");

  const Outcome ignored = train_poisoned("ignore", spike, {"spikes.action=ignore"});
  EXPECT_EQ(ignored.code, 0) << ignored.err;
  EXPECT_EQ(marked("ignore", "spike"), Steps{});
}

// R14 on one rank: what is not finite is never applied, skipped up to max_skipped in a row.
TEST_F(RunSpikes, WhatIsNotFiniteEndsTheRunOrIsSkippedSoOften) {
  const Outcome stopped = train_poisoned("stop", "loss:7:0:1:nan", {});
  EXPECT_EQ(stopped.code, 5) << stopped.err;
  EXPECT_TRUE(contains(stopped.err, "step 7: loss nan and gradient norm ")) << stopped.err;
  EXPECT_EQ(newest_step("stop"), 5);

  const std::string thrice = "loss:7:0:3:inf";
  const Outcome skipped = train_poisoned("skip", thrice, {"spikes.nonfinite=skip", "spikes.max_skipped=3"});
  EXPECT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_EQ(marked("skip", "skipped"), (Steps{7, 8, 9}));
  EXPECT_TRUE(contains(metrics("skip"), "{\"kind\":\"train\",\"step\":8,\"loss\":null,"));

  const Outcome exhausted = train_poisoned("exhausted", thrice, {"spikes.nonfinite=skip", "spikes.max_skipped=2"});
  EXPECT_EQ(exhausted.code, 5) << exhausted.err;
  EXPECT_TRUE(contains(exhausted.err, "step 9: ")) << exhausted.err;
  EXPECT_TRUE(contains(exhausted.err, "3 steps in a row, more than spikes.max_skipped: 2")) << exhausted.err;
  // A checkpoint between them knows how many there were.
  const Outcome saved =
      train_poisoned("saved", thrice, {"spikes.nonfinite=skip", "spikes.max_skipped=2", "checkpoint.every=1"});
  EXPECT_EQ(saved.code, 5) << saved.err;
  EXPECT_EQ(newest_step("saved"), 8);
  EXPECT_EQ(detector("saved", 8).at("in_a_row"), 2);
  const Outcome again =
      train_poisoned("saved", thrice, {"spikes.nonfinite=skip", "spikes.max_skipped=2", "checkpoint.every=1"});
  EXPECT_EQ(again.code, 5) << again.err;
  EXPECT_TRUE(contains(again.err, "3 steps in a row")) << again.err;
}

// R15: R2 with skipping on.
TEST_F(RunSpikes, KilledAndResumedItSkipsTheSameSteps) {
  const std::string poison = "loss:6:0:1:nan;loss:23:0:2:10000;loss:44:0:1:inf;loss:52:0:1:10000";
  const Overrides skip{"spikes.action=skip", "spikes.nonfinite=skip"};
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {  // the second is warm
    fs::remove_all(run_folder("reference"));
    const Outcome reference = train_poisoned("reference", poison, skip);
    ASSERT_EQ(reference.code, 0) << reference.err;
    seconds = reference.seconds;
  }
  ASSERT_EQ(marked("reference", "skipped"), (Steps{6, 23, 24, 44, 52}));
  const Philox random(15, RngPurpose::test);
  const int wanted = figure(6, 50);
  int kills = 0, between = 0;
  for (uint64_t draw = 0; kills < wanted;) {
    ASSERT_LT(draw, 8u * static_cast<unsigned>(wanted)) << "runs end before they are killed";
    const std::string run = fmt::format("run{}", draw);
    for (int part = 0; part < 2; ++part) {
      const pid_t child = start(run, with(skip), {{"T6_POISON", poison}}, true);
      sleep_for(random.uniform(draw++) * seconds);
      ::kill(child, SIGKILL);
      if (finish(child).signal != SIGKILL) break;
      ++kills;
      between += newest_step(run) >= 10 ? 1 : 0;
    }
    const Outcome outcome = train_poisoned(run, poison, skip);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    expect_equal_runs(run, "reference");
    ASSERT_FALSE(HasFailure());
    fs::remove_all(run_folder(run));
  }
  measured(
      "R15",
      "{0} of {0} runs killed with skipping on ({1} after a step had been skipped and saved) resumed bitwise, with "
      "the detector's state and the same 5 steps skipped",
      kills, between);
}

// The detector's state is what the comparison above sees.
TEST_F(RunSpikes, ControlADetectorThatForgetsIsADifference) {
  ASSERT_EQ(train_poisoned("a", "loss:12:0:1:nan", {"spikes.nonfinite=skip"}).code, 0);
  ASSERT_EQ(train_poisoned("b", "loss:12:0:1:nan", {"spikes.nonfinite=skip", "train.steps=40"}).code, 0);
  rewrite_newest("b", [](checkpoint::State& state, auto&) { state.scalars.erase("spikes"); });
  const Outcome outcome = train_poisoned("b", "", {"spikes.nonfinite=skip"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "holds no state of the spike detector, which starts anew")) << outcome.err;
  EXPECT_TRUE(contains(difference("b", "a"), "the position differs")) << difference("b", "a");
}

// R14 with ranks: one of them alone has the bad number, all stop or skip, and one message says it.
TEST_F(RunSpikes, OnTwoRanksAllDecideAlikeHeavy) {
  if (!dist::has_mpi() || mpirun().empty()) GTEST_SKIP() << "no MPI";
  int runs = 0;
  for (const char* in : {"loss", "gradient"}) {
    for (const char* policy : {"stop", "skip"}) {
      const std::string run = fmt::format("{}-{}", in, policy), poison = fmt::format("{}:8:1:1:nan", in);
      const pid_t child =
          test::start_program(mpirun().c_str(),
                              {"-n", "2", "--oversubscribe", "--bind-to", "none", "--allow-run-as-root", "--quiet",
                               T6_DRIVER, "train", "--config", "config.yaml", "run.dir=" + run, "run.threads=1",
                               "train.steps=20", "spikes.nonfinite=" + std::string(policy)},
                              folder(), {{"T6_POISON", poison}});
      const Outcome outcome = finish(child);
      const bool skip = std::string(policy) == "skip";
      EXPECT_EQ(outcome.code, skip ? 0 : 5) << outcome.err;
      const size_t first = outcome.err.find("step 8: loss ");
      EXPECT_NE(first, std::string::npos) << outcome.err;
      EXPECT_EQ(first, outcome.err.rfind("step 8: loss ")) << outcome.err;
      EXPECT_EQ(newest_step(run), skip ? 20 : 5);
      EXPECT_EQ(marked(run, "skipped"), skip ? Steps{8} : Steps{});
      expect_checkpoints_intact(run);
      ++runs;
    }
  }
  measured("R14", "{0} of {0} whole runs on 2 ranks, one with a bad number: all stopped (exit 5) or all skipped it",
           runs);
}

}  // namespace
}  // namespace t6::test
