// R2, R3, R4: kills at random instants and at every disk call; nothing is lost that should not be.
#include <sys/wait.h>

#include <csignal>
#include <cstdio>

#include "base/rng.h"
#include "run_support.h"

namespace t6::test {
namespace {

using data::testing::read_file;

class RunKill : public RunTest {
 protected:
  // After a kill: only whole checkpoints are listed, and no more than one interval of steps is lost.
  void expect_little_lost(const std::string& run, int64_t interval) {
    expect_checkpoints_intact(run);
    const int64_t saved = std::max<int64_t>(0, newest_step(run));
    EXPECT_LE(last_logged(run) - saved, interval) << "newest checkpoint " << saved;
  }
};

TEST_F(RunKill, FiftyRandomInstants) {
  constexpr int kKills = 50, kKillsARun = 3;
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {  // the second is warm
    fs::remove_all(run_folder("reference"));
    const Outcome reference = train("reference");
    ASSERT_EQ(reference.code, 0) << reference.err;
    seconds = reference.seconds;
  }
  const Philox random(11, RngPurpose::test);
  int kills = 0, runs = 0, within = 0, while_saving = 0;
  for (uint64_t draw = 0; kills < kKills; ++runs) {
    ASSERT_LT(runs, 200) << "runs end before they are killed";
    const std::string run = fmt::format("run{}", runs);
    for (int part = 0; part < kKillsARun; ++part) {
      const pid_t child = start(run);
      sleep_for(random.uniform(draw++) * seconds * (part == 0 ? 1.0 : 0.6));
      ::kill(child, SIGKILL);
      const Outcome outcome = finish(child);
      if (outcome.signal != SIGKILL) {
        EXPECT_EQ(outcome.code, 0) << outcome.err;
        break;
      }
      ++kills;
      expect_little_lost(run, kInterval);
      if (const int64_t step = newest_step(run); step > 0 && step < kSteps) ++within;
      std::error_code ignored;
      for (const auto& entry : fs::directory_iterator(checkpoints(run), ignored)) {
        while_saving += entry.path().filename().string().starts_with(".") ? 1 : 0;
      }
    }
    const Outcome outcome = train(run);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    expect_equal_runs(run, "reference");
    if (HasFailure()) break;
    fs::remove_all(run_folder(run));
  }
  std::printf("%d kills in %d runs of %.2f s: %d between the first checkpoint and the last, %d amid a save\n", kills,
              runs, seconds, within, while_saving);
  EXPECT_GE(within, kKills / 4) << "the instants do not cover the run";
}

// Every call that changes the disk, from the folder's making to the last sync, of a run with two saves and a deletion.
TEST_F(RunKill, EveryDiskCallOfARun) {
  const Overrides small = {"train.steps=4",      "checkpoint.every=2",      "checkpoint.keep_last=1",
                           "evaluation.every=2", "schedule.warmup_steps=1", "evaluation.windows=2"};
  constexpr int64_t kEnd = 4;
  const Outcome reference = drive("reference", {{"T6_COUNT_CALLS", "calls"}}, small);
  ASSERT_EQ(reference.code, 0) << reference.err;
  const int calls = std::stoi(read_file(folder() / "calls"));
  ASSERT_GT(calls, 50);
  std::printf("%d disk calls\n", calls);
  for (int call = 1; call <= calls; ++call) {
    const std::string run = fmt::format("run{}", call);
    const Environment die = {{"T6_DIE_AT_CALL", std::to_string(call)}, {"T6_TORN", call % 2 == 0 ? "1" : "0"}};
    const Outcome killed = drive(run, die, small);
    EXPECT_EQ(killed.code, 137) << killed.err;
    expect_little_lost(run, 2);
    const Outcome outcome = drive(run, {}, small);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    expect_equal_runs(run, "reference", kEnd);
    for (const auto& entry : fs::directory_iterator(checkpoints(run))) {
      EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path() << " was left behind";
    }
    ASSERT_FALSE(HasFailure()) << "killed at disk call " << call;
    fs::remove_all(run_folder(run));
  }
}

}  // namespace
}  // namespace t6::test
