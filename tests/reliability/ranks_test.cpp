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
#include "data/tokenizer.h"
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
  // Of each step of training: which tokens came so far, and the loss.
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
  // Rank 0 writes none of its tensors before the line of step 10, which with the validation before the first step is
  // the eleventh of metrics.jsonl: by its vote of that step the save of step 9 is under way.
  Environment held_until_step_10(const std::string& run, Environment environment) const {
    environment["T6_HOLD_PAYLOAD"] = "0-11";
    environment["T6_RECORD_CALLS"] = calls(run).string();
    return environment;
  }
  fs::path calls(const std::string& run) const { return folder() / (run + ".calls"); }
  // Whether rank 0 wrote tensors of step 9 after its last line of metrics.jsonl, and gave the save its name after that.
  bool saved_after_the_last_line(const std::string& run) const {
    const std::vector<std::string> all = recorded_calls(calls(run), 0);
    const auto last = [&](const char* call, const char* path) {
      const auto is = [&](const std::string& one) { return one.starts_with(call) && one.ends_with(path); };
      return std::find_if(all.rbegin(), all.rend(), is);
    };
    const auto line = last("write ", "/metrics.jsonl");
    const auto tensors = last("write ", "/.tmp-step-00000009/rank-00000.h5");
    const auto name = last("rename ", "/.tmp-step-00000009");
    EXPECT_TRUE(line != all.rend() && tensors != all.rend() && name != all.rend()) << "not recorded";
    return name < tensors && tensors < line;
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
  for (const std::string precision : {"f32", "bf16"}) {
    SCOPED_TRACE(precision);
    const Overrides tree{"train.reduction=tree", "train.steps=40", "schedule.kind=constant",
                         "train.precision=" + precision};
    const std::string run = "run-" + precision, reference = "reference-" + precision;
    ASSERT_EQ(train_on(1, reference, tree).code, 0);
    train_on_1_2_4_and_1(run, 40, tree);
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(training_lines(run), training_lines(reference));
  }
  measured("R12",
           "1, 2, 4 and 1 ranks after each other, on 2 with optimizer.zero, in f32 and in bf16: 40 steps with the bits "
           "of one rank");
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
  // Ranks that end apart wait for each other: the watchdog ends that wait.
  const Overrides endless{"train.steps=1000000", "train.max_runtime=60s", "schedule.kind=constant",
                          "checkpoint.every=0",  "evaluation.every=0",    "run.watchdog=20s"};
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

// R8: what comes after the vote of a step is heard with the next one, also by the rank that it came to.
TEST_F(RunRanksHeavy, ASignalAfterTheVoteStopsAllAfterTheNextStep) {
  const Environment late{{"T6_SIGNAL_AT", "5"}};  // by rank 0: the evaluation before the first step, and four steps
  const Outcome outcome = drive_on(2, "run", late, {"train.steps=20", "evaluation.every=0", "run.watchdog=10s"});
  EXPECT_EQ(outcome.code, 128 + SIGTERM) << outcome.err;
  EXPECT_EQ(last_logged("run"), 5);
  EXPECT_EQ(newest_step("run"), 5);
  expect_checkpoints_intact("run");
  measured("R8", "a signal that came to one of 2 ranks after its vote ended both after the next step");
}

// R9: whoever is out of time stops all after the same step; the time before the ranks met counts.
TEST_F(RunRanksHeavy, MaxRuntimeStopsAllAfterTheSameStep) {
  const Overrides limited{"train.steps=1000000", "train.max_runtime=4s", "schedule.kind=constant", "checkpoint.every=0",
                          "evaluation.every=0"};
  const Outcome outcome = train_on(2, "run", limited);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(last_logged("run"), newest_step("run"));
  expect_checkpoints_intact("run");

  std::vector<std::string> rank{T6_PROGRAM};
  const std::vector<std::string> words = train_words("late", limited);
  rank.insert(rank.end(), words.begin(), words.end());
  std::vector<std::string> late{"/bin/sh", "-c", "sleep 5; exec \"$0\" \"$@\""};
  late.insert(late.end(), rank.begin(), rank.end());
  const Outcome waited = finish(start_apart({rank, late}));
  EXPECT_EQ(waited.code, 0) << waited.err;
  EXPECT_EQ(newest_step("late"), 1);
  measured("R9",
           "2 ranks with max_runtime ended after the same step, saved; after the first one where a rank came late");
}

// R16 in a run: a rank whose update alone was another is found at the next comparison, and by nothing else.
TEST_F(RunRanksHeavy, ReplicasThatDivergeAreFoundWhereTheConfigAsks) {
  const Environment other_update{{"T6_POISON", "own:8:1:1:0.5"}};
  const Overrides steps{"train.steps=20", "train.global_batch=4"};
  Overrides checked = steps;
  for (const char* more : {"run.check_replicas=10", "checkpoint.every=9", "checkpoint.async=true"}) {
    checked.emplace_back(more);
  }
  const Outcome good = drive_on(2, "good", {}, checked);
  EXPECT_EQ(good.code, 0) << good.err;
  // The save of step 9 is under way when they are compared, and gets its name.
  const Outcome found = drive_on(2, "found", held_until_step_10("found", other_update), checked);
  EXPECT_EQ(found.code, 5) << found.err;
  EXPECT_TRUE(contains(found.err, " of rank 1 differs")) << found.err;
  EXPECT_EQ(messages(found.err).size(), 1u) << found.err;
  EXPECT_EQ(last_logged("found"), 10);
  EXPECT_EQ(newest_step("found"), 9);
  EXPECT_TRUE(saved_after_the_last_line("found"));
  expect_checkpoints_intact("found");
  // Control: a save that is waited for.
  Overrides waiting = checked;
  waiting.back() = "checkpoint.async=false";
  Environment recorded = other_update;
  recorded["T6_RECORD_CALLS"] = calls("waiting").string();
  EXPECT_EQ(drive_on(2, "waiting", recorded, waiting).code, 5);
  EXPECT_EQ(newest_step("waiting"), 9);
  EXPECT_FALSE(saved_after_the_last_line("waiting"));
  const Outcome unasked = drive_on(2, "unasked", other_update, steps);
  EXPECT_EQ(unasked.code, 0) << unasked.err;
  measured("R16",
           "a run with run.check_replicas: 10 on 2 ranks, one with another update in step 8, ended after step 10");
}

// R3: weights that go bad in step 10 end the run, by its evaluation or its scores; the save of step 9, which is under
// way then, is completed.
TEST_F(RunRanksHeavy, WhatMakesNumbersThatAreNotFiniteLosesNoSave) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  data::Tokenizer::from_tokens(tokens, "bytes").save(folder() / "bytes.tiktoken");
  data::testing::write_file(folder() / "lambada_openai.jsonl", "{\"text\":\"the cat sees the river\"}\n");
  const Environment bad{{"T6_POISON", "weights:10:1:1:nan"}};
  const Overrides steps{"train.steps=20",     "train.global_batch=4",  "optimizer.zero=true",
                        "checkpoint.every=9", "checkpoint.async=true", "model.vocab_size=320"};
  struct Look {
    const char *run, *message;
    Overrides overrides;
  };
  const std::vector<Look> looks{{"evaluated", "the validation loss after step 10 is nan", {"evaluation.every=10"}},
                                {"scored",
                                 "task lambada, item 0: the model's scores are not finite",
                                 {"evaluation.every=0", "data.tokenizer=bytes.tiktoken", "scores.tasks=[lambada]",
                                  "scores.data=.", "scores.every=10"}}};
  for (const Look& look : looks) {
    SCOPED_TRACE(look.run);
    Overrides overrides = steps;
    overrides.insert(overrides.end(), look.overrides.begin(), look.overrides.end());
    const Outcome outcome = drive_on(2, look.run, held_until_step_10(look.run, bad), overrides);
    EXPECT_EQ(outcome.code, 5) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, look.message)) << outcome.err;
    EXPECT_EQ(messages(outcome.err).size(), 1u) << outcome.err;
    EXPECT_EQ(last_logged(look.run), 10);
    EXPECT_EQ(newest_step(look.run), 9);
    EXPECT_TRUE(saved_after_the_last_line(look.run));
    expect_checkpoints_intact(look.run);
  }
  measured("R3", "a validation loss and scores that were no numbers ended a run on 2 ranks with the save under way");
}

// R14: the run ends as one whose numbers are none, also where the save under way, of step 9, is the third in a row that
// gets no manifest.
TEST_F(RunRanksHeavy, NumbersThatAreNotFiniteEndARunWhoseSavesFail) {
  const Environment bad{{"T6_POISON", "weights:10:1:1:nan"},
                        {"T6_HOLD_PAYLOAD", "10-11"},
                        {"T6_FULL", "0-1000"},
                        {"T6_FULL_IN", "manifest.json"}};
  const Outcome outcome =
      drive_on(2, "run", bad,
               {"train.steps=20", "train.global_batch=4", "optimizer.zero=true", "checkpoint.every=3",
                "checkpoint.async=true", "evaluation.every=10", "model.vocab_size=320"});
  EXPECT_EQ(outcome.code, 5) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "the validation loss after step 10 is nan")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "(2 of 3 failures in a row end the run)")) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "the run ends at step 9, which could not be saved")) << outcome.err;
  EXPECT_EQ(last_logged("run"), 10);
}

}  // namespace
}  // namespace t6::test
