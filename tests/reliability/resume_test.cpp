// Same runs give the same bits; a run that stopped for whatever reason goes on as if it had not.
#include <sys/wait.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "model/attention_kinds.h"
#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::bin16;
using data::testing::read_file;
using data::testing::write_file;

class RunResume : public RunTest {
 protected:
  // Starts a run of kSteps, waits until its checkpoint of `step` is there, kills it before its last one is.
  void kill_after(const std::string& run, int64_t step, const Overrides& overrides = {}) {
    Overrides all = overrides;
    all.emplace_back("checkpoint.async=false");  // no save is under way when the next step ends
    // Where this process was held up for so long that the run came to its end: again.
    for (int attempt = 0; attempt < 5; ++attempt) {
      const pid_t child = start(run, all);
      const double limit = seconds_now() + 60;
      while (newest_step(run) < step && !has_ended(child) && seconds_now() < limit) sleep_for(0.002);
      ::kill(child, SIGKILL);
      const Outcome outcome = finish(child);
      ASSERT_GE(newest_step(run), step) << outcome.err;
      if (outcome.signal == SIGKILL && newest_step(run) < kSteps) return;
      fs::remove_all(run_folder(run));
    }
    FAIL() << "killed too late for this test";
  }
};

// R1.
TEST_F(RunResume, ThreeRunsAreBitwiseEqual) {
  for (const char* run : {"a", "b", "c"}) {
    const Outcome outcome = train(run);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }
  expect_equal_runs("b", "a");
  expect_equal_runs("c", "a");
  measured("R1", "3 repeats of {} steps: 0 bytes differ in weights, optimizer state and loss log", kSteps);
  ASSERT_EQ(train("other", {"run.seed=1"}).code, 0);
  EXPECT_NE(metrics("other"), metrics("a"));
  EXPECT_FALSE(read_file(payload("other", kSteps)) == read_file(payload("a", kSteps)));
}

TEST_F(RunResume, AllKindsOfSamplingAndPrecisionResumeBitwise) {
  const std::vector<Overrides> variants = {
      {"preset=official", "evaluation.windows=8"},
      {"train.precision=bf16", "schedule.kind=wsd", "train.recompute=block"},
  };
  for (size_t i = 0; i < variants.size(); ++i) {
    const std::string whole = fmt::format("whole{}", i), parts = fmt::format("parts{}", i);
    ASSERT_EQ(train(whole, variants[i]).code, 0);
    ASSERT_NO_FATAL_FAILURE(kill_after(parts, 20, variants[i]));
    const Outcome outcome = train(parts, variants[i]);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    expect_equal_runs(parts, whole);
  }
}

// Every attention kind, through the program: killed, resumed, and equal to the undisturbed run.
TEST_F(RunResume, EveryAttentionKindResumesBitwise) {
  std::string config = read_file(folder() / "config.yaml");
  const size_t options = config.find("  tpa: {");
  ASSERT_NE(options, std::string::npos);
  config.erase(options, config.find('\n', options) + 1 - options);
  write_file(folder() / "config.yaml", config);
  for (const std::string_view kind : kAttentionKindNames) {
    Overrides overrides = {fmt::format("model.attention={}", kind), "model.heads=4", "logging.tensorboard=false"};
    if (kind == "mla") overrides.insert(overrides.end(), {"model.mla.q_rank=24", "model.mla.kv_rank=20"});
    const std::string whole = fmt::format("whole_{}", kind), parts = fmt::format("parts_{}", kind);
    Outcome outcome = train(whole, overrides);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    ASSERT_NO_FATAL_FAILURE(kill_after(parts, 10, overrides));
    outcome = train(parts, overrides);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    expect_equal_runs(parts, whole);
  }
}

// An evaluation that is due at no checkpoint and at no step but the last.
TEST_F(RunResume, TheLastValidationIsPartOfTheLastCheckpoint) {
  const Overrides overrides = {"evaluation.every=0"};
  ASSERT_EQ(train("whole", overrides).code, 0);
  const auto scalars = nlohmann::json::parse(read_file(manifest("whole", kSteps)))["scalars"];
  EXPECT_EQ(scalars["validation"]["step"], kSteps);
  EXPECT_TRUE(contains(metrics("whole"), fmt::format("{{\"kind\":\"validation\",\"step\":{}", kSteps)));
  const std::string before = metrics("whole");
  ASSERT_EQ(train("whole", overrides).code, 0);
  EXPECT_EQ(metrics("whole"), before);
}

TEST_F(RunResume, AfterTheEndNothingChanges) {
  ASSERT_EQ(train("run").code, 0);
  auto before = snapshot("run");
  const Outcome outcome = train("run");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  auto after = snapshot("run");
  for (auto* files : {&before, &after}) {
    files->erase("timing.jsonl");
    files->erase("env.json");
    std::erase_if(*files, [](const auto& file) { return file.first.starts_with("tensorboard"); });
  }
  EXPECT_EQ(before, after);
}

TEST_F(RunResume, ALongerRunGoesOnFromTheEndOfAShorter) {
  const Overrides constant = {"schedule.kind=constant", "evaluation.every=20"};
  Overrides longer = constant;
  longer.push_back("train.steps=80");
  ASSERT_EQ(train("whole", longer).code, 0);
  ASSERT_EQ(train("parts", constant).code, 0);
  const Outcome outcome = train("parts", longer);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "train.steps"));  // says what changed
  expect_equal_runs("parts", "whole", 80);
}

TEST_F(RunResume, TargetLossStopsAndARerunStaysStopped) {
  const Overrides overrides = {"train.target_loss=3.9", "evaluation.every=10"};
  const Outcome outcome = train("run", overrides);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const int64_t stopped = newest_step("run");
  EXPECT_GT(stopped, 0);
  EXPECT_LT(stopped, kSteps);
  EXPECT_EQ(last_logged("run"), stopped);
  const std::string log = metrics("run");
  EXPECT_EQ(train("run", overrides).code, 0);
  EXPECT_EQ(metrics("run"), log);
  EXPECT_EQ(newest_step("run"), stopped);
  // Without the target it goes on.
  EXPECT_EQ(train("run", {"evaluation.every=10"}).code, 0);
  EXPECT_EQ(newest_step("run"), kSteps);
}

TEST_F(RunResume, TargetLossWithoutValidationIsRefused) {
  const Outcome outcome = train("run", {"train.target_loss=3.9", "data.validation=[]"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(contains(outcome.err, "train.target_loss"));
  EXPECT_FALSE(fs::exists(run_folder("run")));
}

// R9.
TEST_F(RunResume, MaxRuntimeSavesAndEndsInTime) {
  const Overrides endless = {"train.steps=100000000", "schedule.kind=constant", "checkpoint.every=0",
                             "evaluation.every=50", "logging.every=1000"};
  // Steps of some 50 ms, so that one more would be too many. A busy machine may take seconds to come to the first.
  const int runtime = figure(3, 1);  // seconds
  Overrides limited = endless;
  limited.insert(limited.end(),
                 {fmt::format("train.max_runtime={}s", runtime), "train.global_batch=64", "data.prefetch=64"});
  const int repeats = figure(2, 20);
  double latest = 0;
  int64_t step = -1;
  for (int i = 0; i < repeats; ++i) {
    const Outcome outcome = train("run", limited);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    // Half a second is for starting a process. A run that does not keep its time has no end.
    EXPECT_LT(outcome.seconds, !full_figures() ? 15 : kSanitized ? 5 : 1.5);
    latest = std::max(latest, outcome.seconds);
    EXPECT_GT(newest_step("run"), step);
    step = newest_step("run");
    EXPECT_EQ(last_logged("run"), step);
  }
  expect_checkpoints_intact("run");
  measured("R9",
           "{0} of {0} runs with max_runtime {1}s saved their last step; the latest ended {2:.2f} s after its process "
           "was started",
           repeats, runtime, latest);
}

// R8 at step 0: what is saved there is not a fresh start.
TEST_F(RunResume, SavedBeforeTheFirstStep) {
  ASSERT_EQ(train("whole").code, 0);
  // Long enough for the signal to arrive during the first evaluation.
  const Overrides slow = {"evaluation.windows=0", "evaluation.every=60"};
  write_file(folder() / "val_000000.bin", bin16(learnable_ids(600000, kVocabulary, 3)));
  const pid_t child = start("parts", slow);
  const double limit = seconds_now() + 60;
  while (!fs::exists(run_folder("parts") / "metrics.jsonl") && seconds_now() < limit) sleep_for(0.001);
  ::kill(child, SIGTERM);
  const Outcome stopped = finish(child);
  ASSERT_EQ(stopped.code, 143) << stopped.err;
  ASSERT_EQ(stopped.signal, 0);
  ASSERT_EQ(newest_step("parts"), 0) << "the signal came too late for this test";
  const std::string log = metrics("parts");
  EXPECT_TRUE(contains(log, "validation"));
  ASSERT_EQ(train("parts", {"train.steps=5"}).code, 0);
  EXPECT_EQ(metrics("parts").substr(0, log.size()), log);
}

// R23: what is saved beside the training is what is saved while it waits.
TEST_F(RunResume, SavingBesideTheTrainingChangesNoBit) {
  ASSERT_EQ(train("beside", {"checkpoint.async=true"}).code, 0);
  ASSERT_EQ(train("waiting", {"checkpoint.async=false"}).code, 0);
  expect_equal_runs("beside", "waiting");
  expect_equal_runs("beside", "waiting", kSteps - kInterval);
  measured("R23", "{} saves beside the training: the last two, and the loss log, bitwise those of a run that waits",
           kSteps / kInterval);
}

// R23: what fails beside the training is said by one of the next steps, not at the next save; the run goes on.
TEST_F(RunResume, AFailedSaveBesideTheTrainingIsSaidAtTheNextStep) {
  // Steps of some 100 ms, in which a thread finds the disk full.
  const Overrides slow = {"checkpoint.async=true", "logging.every=1", "train.global_batch=128", "train.steps=20"};
  ASSERT_EQ(drive("reference", {}, slow).code, 0);
  // Full from step 3 until step 10, whose save is the next one, is logged.
  const Outcome outcome = drive("run", {{"T6_FULL", "4-11"}, {"T6_FULL_IN", "checkpoints"}}, slow);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const size_t said = outcome.err.find("step 5 was not saved");
  ASSERT_NE(said, std::string::npos) << outcome.err;
  int64_t later = 0;
  while (said > outcome.err.find(fmt::format("step {}/20 |", 5 + later + 1))) ++later;
  EXPECT_GE(later, 1) << "the run waited for the save\n" << outcome.err;
  EXPECT_LE(later, full_figures() ? 2 : kInterval - 1) << outcome.err;
  expect_equal_runs("run", "reference", 20);
  measured("R23", "a full disk during a save beside the training was said {} step{} later, and the run went on bitwise",
           later, later == 1 ? "" : "s");
}

TEST_F(RunResume, KeysThatDecideTheRunMustStay) {
  ASSERT_NO_FATAL_FAILURE(kill_after("run", 5));
  const auto before = snapshot("run");
  const std::vector<std::pair<Overrides, std::string>> changes = {
      {{"run.seed=7"}, "run.seed"},
      {{"data.sampling=random_window"}, "data.sampling"},
      {{"train.global_batch=8"}, "train.global_batch"},
      {{"train.accumulation=sum"}, "train.accumulation"},
      {{"model.rope_theta=5000"}, "model"},
      {{"model.layers=2"}, "model"},
      {{"data.train=[train_000001.bin]"}, "data.train"},
      {{"data.train=[train_000002.bin, train_000001.bin]"}, "data.train"},
  };
  for (const auto& [overrides, key] : changes) {
    const Outcome outcome = train("run", overrides);
    EXPECT_EQ(outcome.code, 4) << overrides[0] << "\n" << outcome.err;
    EXPECT_TRUE(contains(outcome.err, key));
    EXPECT_EQ(snapshot("run"), before) << overrides[0];
  }
  // The same tokens elsewhere are the same data.
  fs::create_directory(folder() / "moved");
  fs::copy(folder() / "train_000001.bin", folder() / "moved");
  fs::copy(folder() / "train_000002.bin", folder() / "moved");
  const Outcome moved = train("run", {"data.train=[moved/*.bin]", "optimizer.lr=5e-3", "train.micro_batch=1"});
  EXPECT_EQ(moved.code, 0) << moved.err;
  EXPECT_TRUE(contains(moved.err, "optimizer.lr"));
  EXPECT_TRUE(contains(moved.err, "train.micro_batch"));
}

TEST_F(RunResume, MicroBatchMustStayWhereItDecidesTheUpdate) {
  for (const Overrides& variant : {Overrides{"data.sampling=random_window"}, Overrides{"train.accumulation=sum"}}) {
    const std::string run = variant[0].substr(0, 8);
    ASSERT_NO_FATAL_FAILURE(kill_after(run, 5, variant));
    Overrides changed = variant;
    changed.push_back("train.micro_batch=1");
    const Outcome outcome = train(run, changed);
    EXPECT_EQ(outcome.code, 4) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "train.micro_batch"));
  }
}

// R5: a run whose checkpoints are gone is not begun again in silence.
TEST_F(RunResume, LostCheckpointsAreNoFreshStart) {
  ASSERT_EQ(train("run").code, 0);
  fs::rename(checkpoints("run"), folder() / "elsewhere");
  for (const Overrides& overrides : {Overrides{}, Overrides{"checkpoint.resume=never"}}) {
    const auto log = metrics("run");
    const Outcome outcome = train("run", overrides);
    EXPECT_EQ(outcome.code, 4) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, fmt::format("a checkpoint of step {} was saved", kSteps)));
    EXPECT_TRUE(contains(outcome.err, "run.dir"));
    EXPECT_EQ(metrics("run"), log);
  }
  fs::remove_all(checkpoints("run"));
  fs::rename(folder() / "elsewhere", checkpoints("run"));
  EXPECT_EQ(train("run").code, 0);
}

TEST_F(RunResume, AKillBeforeTheFirstCheckpointSaysWhatIsDoneAgain) {
  const Overrides late = {"checkpoint.every=0", "train.steps=100000000", "schedule.kind=constant",
                          "evaluation.every=0"};
  const pid_t child = start("run", late);
  const double limit = seconds_now() + 60;
  while (last_logged("run") < 20 && seconds_now() < limit) sleep_for(0.002);
  ::kill(child, SIGKILL);
  finish(child);
  const int64_t logged = last_logged("run");
  ASSERT_GE(logged, 20);
  const Outcome outcome = train("run");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, fmt::format("the {} steps logged", logged)));
  ASSERT_EQ(train("reference").code, 0);
  expect_equal_runs("run", "reference");
}

TEST_F(RunResume, PoliciesNeverAndRequire) {
  EXPECT_EQ(train("run", {"checkpoint.resume=require"}).code, 4);
  ASSERT_NO_FATAL_FAILURE(kill_after("run", 5));
  const auto before = snapshot("run");
  EXPECT_EQ(train("run", {"checkpoint.resume=never"}).code, 4);
  EXPECT_EQ(snapshot("run"), before);
  EXPECT_EQ(train("run", {"checkpoint.resume=require"}).code, 0);
}

// R21.
TEST_F(RunResume, ASecondTrainerIsRefusedAtOnce) {
  const Overrides endless = {"train.steps=100000000", "schedule.kind=constant"};
  const pid_t first = start("run", endless);
  const double limit = seconds_now() + 60;
  while (newest_step("run") < 5 && seconds_now() < limit) sleep_for(0.002);
  const Outcome second = train("run", endless);
  EXPECT_EQ(second.code, 4) << second.err;
  EXPECT_LT(second.seconds, !full_figures() ? 15 : kSanitized ? 5 : 1);
  EXPECT_TRUE(contains(second.err, fmt::format("process {}", first)));
  EXPECT_EQ(::waitpid(first, nullptr, WNOHANG), 0) << "the first trainer ended";
  ::kill(first, SIGKILL);
  ::waitpid(first, nullptr, 0);
  expect_checkpoints_intact("run");
  measured("R21", "the second trainer exits 4 after {:.2f} s, naming the first", second.seconds);
}

// A lock that locks nothing is found: the second trainer is not refused then.
TEST_F(RunResume, ControlALockThatDoesNotHoldIsFound) {
  const Overrides endless = {"train.steps=100000000", "schedule.kind=constant"};
  const pid_t first = start("run", endless, {{"T6_NO_LOCK", "1"}}, true);
  const double limit = seconds_now() + 60;
  while (newest_step("run") < 5 && seconds_now() < limit) sleep_for(0.002);
  const Outcome second = drive("run", {{"T6_NO_LOCK", "1"}}, {"train.steps=1"});
  EXPECT_FALSE(second.code == 4 && contains(second.err, "is in use by")) << second.err;
  ::kill(first, SIGKILL);
  ::waitpid(first, nullptr, 0);
}

}  // namespace
}  // namespace t6::test
