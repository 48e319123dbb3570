// R10, R11 for whole runs on several ranks: one dies or hangs, all end in time, one message says which and where, no
// process is left.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <functional>
#include <sstream>

#include "base/rng.h"
#include "dist/mpi.h"
#include "dist/ranks_run.h"
#include "reliability/run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;
using data::testing::write_file;

class RunRankDeathHeavy : public RanksTest {
 protected:
  // Sends `signal` to the rank once the run has logged `steps` more steps; false when it never does.
  bool strike(pid_t launcher, const std::string& run, int rank, int signal, int64_t step) const {
    if (!wait_for_step(launcher, run, step)) return false;
    sleep_for(full_figures() ? 1.3 : 2);  // ranks say every second where they are
    const pid_t process = process_of(rank);
    if (process <= 0 || ::kill(process, signal) != 0) return false;
    // Open MPI takes the first one that no fault of the program's caused, prints a trace and goes on.
    for (int i = 0; signal == SIGSEGV && i < 50 && ::kill(process, signal) == 0; ++i) sleep_for(0.02);
    return true;
  }
  Outcome given_up(pid_t launcher) {
    ::kill(launcher, SIGTERM);
    return finish(launcher);
  }
  void kill_all_but(pid_t launcher) const {
    for (const pid_t process : processes()) {
      if (process != launcher) ::kill(process, SIGKILL);
    }
  }
  // As finish(), for a run that the watchdog is to end: where it does not, nothing else would.
  Outcome finish_watched(pid_t launcher) {
    const double limit = seconds_now() + 90;
    bool ended = has_ended(launcher);
    for (; !ended && seconds_now() < limit; ended = has_ended(launcher)) sleep_for(0.01);
    if (!ended) {
      ADD_FAILURE() << "nobody ended the run";
      kill_all_but(launcher);
    }
    return finish(launcher);
  }
  // The run that `start` starts, ended by its watchdog. Where the machine does so much else that the start alone takes
  // longer than the watchdog allows: again.
  Outcome finish_started(const std::string& run, const std::function<pid_t()>& start) {
    for (int attempt = 1;; ++attempt) {
      const Outcome outcome = finish_watched(start());
      if (attempt == 5 || outcome.code != 7 || outcome.err.find(" at the start") == std::string::npos) return outcome;
      fs::remove_all(run_folder(run));
    }
  }
  // One message, of the program, that has these parts; exit code 7; no process.
  void expect_end(const Outcome& outcome, const std::vector<std::string>& parts) const {
    EXPECT_EQ(outcome.code, 7) << outcome.err;
    const std::vector<std::string> said = messages(outcome.err);
    EXPECT_EQ(said.size(), 1u) << outcome.err;
    for (const std::string& part : parts) {
      EXPECT_TRUE(!said.empty() && contains(said.front(), part)) << part << " in\n" << outcome.err;
    }
    expect_no_process_left();
  }

  // How a rank is made to hang, and the parts of the message by which rank it is.
  struct Hang {
    int signal;
    Environment environment;  // of the program with faults; empty: the program itself is started
    std::function<int(int i, int world)> victim;
    std::function<std::vector<std::string>(int victim)> parts;
    bool in_last_micro_batch = false;  // in every other run a step has one a rank
  };
  // So many runs on 2 to 4 ranks, in each of which one hangs; how long after it the slowest ended, in seconds.
  double hang_and_end(int hangs, const Philox& random, const Hang& how) {
    Overrides watched = kEndless;
    watched.push_back(fmt::format("run.watchdog={}s", kWatchdog));
    double worst = 0;
    for (int i = 0; i < hangs && !HasFailure(); ++i) {
      const int world = 2 + (full_figures() ? i % 3 : 0), victim = how.victim(i, world);
      SCOPED_TRACE(fmt::format("hang {}: rank {} of {}", i, victim, world));
      const std::string run = fmt::format("run{}", i);
      Overrides overrides = watched;
      if (how.in_last_micro_batch && i % 2 == 0) overrides.push_back(fmt::format("train.global_batch={}", world));
      const auto start = [&] {
        return how.environment.empty() ? start_ranks(world, run, overrides)
                                       : start_drivers(world, run, how.environment, overrides);
      };
      const auto step = static_cast<int64_t>(5 + random.below(static_cast<uint64_t>(i), 60));
      pid_t launcher = start();
      // Where the machine does so much else that the start alone takes longer than the watchdog allows: again.
      for (int attempt = 1; !strike(launcher, run, victim, how.signal, step); ++attempt) {
        const Outcome outcome = given_up(launcher);
        if (attempt == 5) ADD_FAILURE() << outcome.err;
        if (attempt == 5) return worst;
        fs::remove_all(run_folder(run));
        launcher = start();
      }
      const double struck = seconds_now();
      const Outcome outcome = finish_watched(launcher);
      const double took = seconds_now() - struck;
      worst = std::max(worst, took);
      expect_end(outcome, {fmt::format("rank {} on {}", victim, host())});
      for (const std::string& part : how.parts(victim)) EXPECT_TRUE(contains(outcome.err, part)) << outcome.err;
      EXPECT_LE(took, kWatchdog + (kSanitized || !full_figures() ? 15 : 5));
      expect_checkpoints_intact(run);
      fs::remove_all(run_folder(run));
    }
    return worst;
  }

  static constexpr int kWatchdog = 5;  // seconds
  static inline const Overrides kEndless = {"train.steps=100000000", "schedule.kind=constant", "checkpoint.every=20",
                                            "evaluation.every=0", "logging.every=1000"};
};

TEST_F(RunRankDeathHeavy, ADeadRankEndsTheRun) {
  const int deaths = figure(3, 50);
  const Philox random(21, RngPurpose::test);
  constexpr std::array kHow{SIGKILL, SIGSEGV, SIGKILL};
  double worst = 0;
  int said = 0;
  for (int i = 0; i < deaths; ++i) {
    const int world = 2 + (full_figures() ? i % 3 : 0), signal = kHow[static_cast<size_t>(i) % kHow.size()];
    const auto victim = static_cast<int>(random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(world)));
    SCOPED_TRACE(fmt::format("death {}: rank {} of {} by signal {}", i, victim, world, signal));
    const std::string run = fmt::format("run{}", i);
    const pid_t launcher = start_ranks(world, run, kEndless);
    const auto step = static_cast<int64_t>(5 + random.below(1000 + static_cast<uint64_t>(i), 60));
    ASSERT_TRUE(strike(launcher, run, victim, signal, step)) << given_up(launcher).err;
    const double struck = seconds_now();
    const Outcome outcome = finish(launcher);
    worst = std::max(worst, seconds_now() - struck);
    expect_end(outcome, {fmt::format("rank {} on {}", victim, host()), "died",
                         victim == 0 ? "which was at step " : "died, last seen at step "});
    // mpirun tells the launcher of a signal unless another rank's end came first.
    const size_t line = outcome.err.find("t6 launch: ");
    said += line == std::string::npos ? 0 : 1;
    EXPECT_TRUE(line == std::string::npos ||
                outcome.err.find(fmt::format("t6 launch: a rank was ended by signal {}", signal)) == line)
        << outcome.err;
    EXPECT_LE(seconds_now() - struck, kSanitized || !full_figures() ? 15 : 5);
    expect_checkpoints_intact(run);
    if (HasFailure()) return;
    fs::remove_all(run_folder(run));
  }
  measured("R10",
           "{0} of {0} deaths of a rank in whole runs on {1} ranks ended all of them with exit 7, the slowest "
           "{2:.1f} s later; one message with rank, host and step, a line of the launcher with the signal {3} times, "
           "no process left",
           deaths, full_figures() ? "2 to 4" : "2", worst, said);
}

TEST_F(RunRankDeathHeavy, AHangingRankEndsTheRun) {
  const int hangs = figure(2, 20);
  const Hang stopped{.signal = SIGSTOP,
                     .environment = {},
                     .victim = [](int i, int world) { return i % world; },
                     // Rank 0 knows of all; where it is gone, the lowest of the others speaks for itself.
                     .parts = [this](int victim) -> std::vector<std::string> {
                       const std::string rank_1 = fmt::format("this is said by rank 1 on {}", host());
                       if (victim == 0) return {"it sends nothing", "which was at step ", rank_1};
                       return {"it sends nothing", "hangs, last seen at step ", "arrived at step "};
                     }};
  const double worst = hang_and_end(hangs, Philox(22, RngPurpose::test), stopped);
  measured(
      "R11",
      "{0} of {0} stopped ranks in whole runs on {1} ranks ended all with exit 7, the slowest after {2:.1f} s with a "
      "watchdog of {3} s; one message names who hangs and (but for rank 0 itself) who arrived where, no process left",
      hangs, full_figures() ? "2 to 4" : "2", worst, kWatchdog);
}

// A rank that lives and never comes back from its part of a validation which is one batch longer than the other's.
TEST_F(RunRankDeathHeavy, ARankThatSpinsInAValidationIsNamed) {
  const Overrides validated = {"train.steps=1000",          "evaluation.every=10", "evaluation.windows=5",
                               "evaluation.sampling=fixed", "checkpoint.every=0",  "run.watchdog=4s"};
  Overrides one = validated;
  one[0] = "train.steps=10";
  std::vector<std::string> words = train_words("one", one);
  ASSERT_EQ(finish(start_program(words, {{"T6_RECORD_READS", (folder() / "reads").string()}}, true)).code, 0);
  // The last read is that of the last window, which rank 0 has.
  std::istringstream lines(read_file(folder() / "reads"));
  std::string offset;
  for (std::string path, at, bytes; lines >> path >> at >> bytes;) {
    if (contains(path, "/val_")) offset = at;
  }
  ASSERT_FALSE(offset.empty());

  words = train_words("run", validated);
  std::vector<std::string> line{"--oversubscribe", "--bind-to", "none", "--allow-run-as-root",
                                "--quiet",         "-n",        "2",    T6_DRIVER};
  line.insert(line.end(), words.begin(), words.end());
  const Outcome outcome = finish_started("run", [&] {
    return test::start_program(mpirun().c_str(), line, folder(), {{"T6_SPIN", "0:" + offset}});
  });
  expect_end(outcome,
             {fmt::format("rank 0 on {}", host()), "hangs at step 10, validation: it lives and does not go on"});
  EXPECT_TRUE(contains(outcome.err, "rank 1 arrived at step 10, waiting for the validation of all ranks"))
      << outcome.err;
}

// A rank that lives and does not go on, as when its storage does not answer.
TEST_F(RunRankDeathHeavy, ARankThatLivesAndHangsEndsTheRun) {
  const int hangs = figure(2, 20);
  const Hang alive{.signal = SIGUSR2,
                   .environment = {{"T6_HANG", "1"}},
                   .victim = [](int i, int world) { return (i + 1) % world; },
                   .parts = [](int) -> std::vector<std::string> {
                     return {"hangs at step ", "it lives and does not go on", " arrived at step ",
                             "waiting for the gradients of all ranks"};
                   },
                   .in_last_micro_batch = true};
  const double worst = hang_and_end(hangs, Philox(23, RngPurpose::test), alive);
  measured(
      "R11",
      "{0} of {0} ranks that lived and did not go on, in whole runs on {1} ranks, ended all with exit 7, the slowest "
      "after {2:.1f} s",
      hangs, full_figures() ? "2 to 4" : "2", worst);
}

// A rank whose storage no longer answers, amid a save: of a run that waits for it at once, of one that saves beside the
// training when the next save is due.
TEST_F(RunRankDeathHeavy, ARankWhoseStorageHangsInASaveIsNamed) {
  struct Case {
    bool beside;
    int victim, step;
    const char* phase;
  };
  for (const Case& save : {Case{false, 1, 10, "saving a checkpoint"}, Case{true, 0, 15, "completing a checkpoint"}}) {
    SCOPED_TRACE(save.phase);
    const std::string run = save.beside ? "beside" : "waits";
    const std::string file = fmt::format("{0}:.tmp-step-00000010/rank-{0:05}.h5", save.victim);
    const Overrides overrides = {"train.steps=1000", "checkpoint.every=5", "evaluation.every=0", "run.watchdog=4s",
                                 fmt::format("checkpoint.async={}", save.beside)};
    const Outcome outcome = finish_started(run, [&] { return start_drivers(2, run, {{"T6_STUCK", file}}, overrides); });
    expect_end(outcome, {fmt::format("rank {} on {}", save.victim, host()),
                         fmt::format("hangs at step {}, {}: it lives and does not go on", save.step, save.phase)});
    EXPECT_TRUE(
        contains(outcome.err, fmt::format("rank {} arrived at step {}, completing a checkpoint, waiting for all "
                                          "ranks",
                                          1 - save.victim, save.step)))
        << outcome.err;
    EXPECT_EQ(newest_step(run), 5);
    expect_checkpoints_intact(run);
  }
  measured("R11", "a rank whose storage hung in a save was named, in a run that waits for it and in one that does not");
}

// Retention that reads the older checkpoints of another start takes longer than the watchdog allows, each of them less:
// every rank hashes its file of each, one after the other.
TEST_F(RunRankDeathHeavy, RetentionThatReadsForLongIsNoHang) {
  constexpr double kRead = 2;    // seconds
  constexpr int kPatience = 10;  // of the watchdog, in seconds: more than a busy machine takes to the first step
  const auto until = [&](int step) -> Overrides {
    return {fmt::format("train.steps={}", step), "checkpoint.every=2", "checkpoint.keep_last=9",
            fmt::format("run.watchdog={}s", kPatience)};
  };
  ASSERT_EQ(train_on(2, "run", until(16)).code, 0);
  const fs::path record = folder() / "calls";
  const Environment slow{{"T6_SLOW_HASH", fmt::format("{:.0f}", kRead * 1000)}, {"T6_RECORD_CALLS", record.string()}};
  const Outcome outcome = drive_on(2, "run", slow, until(18));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  double seconds = 0;
  for (const int rank : {0, 1}) {
    // What follows the last call for its own part of step 18, on rank 0 that which names it.
    std::vector<std::string> read, expected;
    for (const std::string& call : recorded_calls(record, rank)) {
      if (contains(call, "/.tmp-step-00000018")) read.clear();
      if (call.starts_with("hash ") && !contains(call, "/.tmp-step-00000018")) read.push_back(call);
    }
    for (int step = 14; step >= 2; step -= 2) {
      const fs::path file = payload("run", step).parent_path() / fmt::format("rank-{:05}.h5", rank);
      expected.push_back("hash " + file.string());
    }
    EXPECT_EQ(read, expected) << "on rank " << rank;
    seconds = static_cast<double>(read.size()) * kRead;
    EXPECT_GT(seconds, kPatience) << "the watchdog had no reason";
  }
  EXPECT_EQ(newest_step("run"), 18);
  EXPECT_EQ(checkpoint::list(checkpoints("run")).size(), 9u);
  measured("R11", "retention that read older checkpoints for at least {:.1f} s under a watchdog of {} s was no hang",
           seconds, kPatience);
}

// With the watchdog off nobody notices that a rank hangs: what the test above waits for does not come by itself.
TEST_F(RunRankDeathHeavy, ControlWithoutAWatchdogAHangIsNotNoticed) {
  Overrides unwatched = kEndless;
  unwatched.emplace_back("run.watchdog=0s");
  const pid_t launcher = start_ranks(2, "run", unwatched);
  ASSERT_TRUE(strike(launcher, "run", 1, SIGSTOP, 20)) << given_up(launcher).err;
  sleep_for(6);
  int status = 0;
  EXPECT_EQ(::waitpid(launcher, &status, WNOHANG), 0) << "it ended by itself";
  kill_all_but(launcher);
  finish(launcher);
  expect_no_process_left();
}

// R18 on several ranks: the data of one of them.
TEST_F(RunRankDeathHeavy, AnErrorOfOneRankEndsAllWithItsCode) {
  // Between the samples that are looked at when a shard is opened.
  std::vector<uint32_t> ids = learnable_ids(60000, kVocabulary, 1);
  ids[31237] = kVocabulary + 7;
  write_file(folder() / "train_000001.bin", data::testing::bin16(ids));
  const Outcome outcome = finish(start_ranks(3, "run", kEndless));
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  const std::vector<std::string> said = messages(outcome.err);
  ASSERT_EQ(said.size(), 1u) << outcome.err;
  for (const char* part : {"ended by an error at step ", "train_000001.bin", "expected below the vocabulary 64"}) {
    EXPECT_TRUE(contains(said.front(), part)) << outcome.err;
  }
  expect_no_process_left();
}

}  // namespace
}  // namespace t6::test
