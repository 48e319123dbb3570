// R8: the first signal ends a run in order, the second at once.
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstdio>

#include "base/rng.h"
#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

class RunSignalKill : public RunTest {};
class RunSignal : public RunTest {};

TEST_F(RunSignalKill, RandomInstants) {
  constexpr int kSignalsARun = 3;
  const int kSignals = figure(12, 50);
  constexpr std::array kNumbers{SIGTERM, SIGUSR1, SIGINT};
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {
    fs::remove_all(run_folder("reference"));
    const Outcome reference = train("reference");
    ASSERT_EQ(reference.code, 0) << reference.err;
    seconds = reference.seconds;
  }
  const Philox random(12, RngPurpose::test);
  int signals = 0, runs = 0, outside = 0, within = 0;
  for (uint64_t draw = 0; signals < kSignals; ++runs) {
    ASSERT_LT(runs, 200) << "runs end before the signal";
    const std::string run = fmt::format("run{}", runs);
    for (int part = 0; part < kSignalsARun; ++part) {
      const int number = kNumbers[draw % kNumbers.size()];
      const int64_t before = newest_step(run);
      const pid_t child = start(run);
      sleep_for(random.uniform(draw++) * seconds * (part == 0 ? 1.0 : 0.6));
      ::kill(child, number);
      const Outcome outcome = finish(child);
      if (outcome.signal == number) {  // before the trainer was there to take it, or after it had ended
        ++outside;
        EXPECT_TRUE(newest_step(run) == before || newest_step(run) == kSteps) << newest_step(run);
        continue;
      }
      expect_checkpoints_intact(run);
      if (outcome.code == 0) break;
      ++signals;
      EXPECT_EQ(outcome.code, 128 + number) << outcome.err;
      EXPECT_EQ(outcome.signal, 0);
      EXPECT_EQ(newest_step(run), last_logged(run)) << "a step was lost";
      if (const int64_t step = newest_step(run); step > 0 && step < kSteps) ++within;
    }
    const Outcome outcome = train(run);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    expect_equal_runs(run, "reference");
    if (HasFailure()) break;
    fs::remove_all(run_folder(run));
  }
  std::printf(
      "%d signals in %d runs of %.2f s: %d between the first step and the last; %d before the trainer or after it\n",
      signals, runs, seconds, within, outside);
  // The instants follow the pace of the reference, which a machine that also does other work does not keep.
  if (full_figures()) {
    EXPECT_GE(within, kSignals / 4) << "the instants do not cover the run";
  }
  measured("R8", "{} of {} signals at random instants: the step ended, saved, exit 128+n, resumed bitwise", signals,
           kSignals);
}

TEST_F(RunSignal, EachSavesAndSaysItsNumber) {
  ASSERT_EQ(train("reference").code, 0);
  // Where this process was held up for so long that the run came to its end before the signal: again.
  bool late = true;
  for (int attempt = 0; late && attempt < 5; ++attempt) {
    fs::remove_all(run_folder("run"));
    late = false;
    for (const int number : {SIGTERM, SIGUSR1, SIGINT}) {
      const int64_t before = newest_step("run");
      const pid_t child = start("run");
      const double limit = seconds_now() + 60;
      while (newest_step("run") <= before && !has_ended(child) && seconds_now() < limit) sleep_for(0.002);
      ::kill(child, number);
      const Outcome outcome = finish(child);
      late = newest_step("run") >= kSteps;
      if (late) break;
      ASSERT_EQ(outcome.signal, 0);
      ASSERT_EQ(outcome.code, 128 + number) << outcome.err;
      EXPECT_EQ(newest_step("run"), last_logged("run"));
    }
  }
  ASSERT_FALSE(late) << "the signals came too late for this test";
  ASSERT_EQ(train("run").code, 0);
  expect_equal_runs("run", "reference");
}

TEST_F(RunSignal, ASecondOneEndsAtOnce) {
  // One step of minutes.
  const pid_t child = start("run", {"train.global_batch=400000", "evaluation.every=0"});
  const double limit = seconds_now() + 60;
  while (last_logged("run") < 0 && seconds_now() < limit) sleep_for(0.002);
  ASSERT_EQ(last_logged("run"), 0);  // evaluated, in the first step now
  ::kill(child, SIGTERM);
  sleep_for(0.3);
  ASSERT_EQ(::waitpid(child, nullptr, WNOHANG), 0) << "the first signal did not wait for the step";
  const double begin = seconds_now();
  ::kill(child, SIGINT);
  const Outcome outcome = finish(child);
  EXPECT_LT(seconds_now() - begin, full_figures() ? 1 : 15);  // the step takes longer than either
  EXPECT_EQ(outcome.signal, 0);
  EXPECT_EQ(outcome.code, 130) << outcome.err;
  EXPECT_EQ(newest_step("run"), -1);
  measured("R8", "a second one ended the process after {:.3f} s", seconds_now() - begin);
}

}  // namespace
}  // namespace t6::test
