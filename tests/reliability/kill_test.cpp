// R2, R3, R4: kills at random instants and at every disk call; nothing is lost that should not be.
#include <sys/wait.h>

#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/rng.h"
#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;

class RunKill : public RunTest {
 protected:
  // After a kill: only whole checkpoints are listed, and no more than one interval of steps is lost; of a run that
  // saves beside the training, more only while the next checkpoint was being written, and never more than two.
  void expect_little_lost(const std::string& run, int64_t interval, bool beside = false) {
    expect_checkpoints_intact(run);
    expect_listed_intact(run);
    const int64_t saved = std::max<int64_t>(0, newest_step(run)), lost = last_logged(run) - saved;
    if (beside) {
      const fs::path next = checkpoints(run) / fmt::format(".tmp-step-{:08}", saved + interval);
      EXPECT_TRUE(lost <= interval || fs::exists(next)) << lost << " steps after the newest checkpoint, " << saved;
    }
    EXPECT_LE(lost, beside ? 2 * interval : interval) << "newest checkpoint " << saved;
    int64_t& most = beside ? most_lost_beside_ : most_lost_;
    most = std::max(most, lost);
    (beside ? kills_beside_ : kills_) += 1;
  }
  // The same as `t6 checkpoint list` says it.
  void expect_listed_intact(const std::string& run) {
#ifdef T6_HAVE_PROGRAM
    if (!fs::exists(checkpoints(run))) return;
    const Outcome outcome = program({"checkpoint", "list", run, "--json"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto listed = nlohmann::json::parse(outcome.out).at("checkpoints");
    const auto known = checkpoint::list(checkpoints(run));
    ASSERT_EQ(listed.size(), known.size());
    for (size_t i = 0; i < known.size(); ++i) {
      EXPECT_EQ(listed[i].at("step"), known[i].step);
      EXPECT_EQ(listed[i].value("damage", ""), "");
    }
    listed_ += static_cast<int>(listed.size());
#endif
    ++lists_;
  }
  int64_t most_lost_ = 0, most_lost_beside_ = 0;
  int kills_ = 0, kills_beside_ = 0;
  int lists_ = 0, listed_ = 0;
};

TEST_F(RunKill, RandomInstants) {
  constexpr int kKillsARun = 3;
  const int kKills = figure(15, 200);
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
    ASSERT_LT(runs, 4 * kKills) << "runs end before they are killed";
    const std::string run = fmt::format("run{}", runs);
    // A save beside the training may take until the next one is due, which waits for it.
    const bool beside = runs % 2 == 1;
    for (int part = 0; part < kKillsARun; ++part) {
      const pid_t child = start(run, {beside ? "checkpoint.async=true" : "checkpoint.async=false"});
      sleep_for(random.uniform(draw++) * seconds * (part == 0 ? 1.0 : 0.6));
      ::kill(child, SIGKILL);
      const Outcome outcome = finish(child);
      if (outcome.signal != SIGKILL) {
        EXPECT_EQ(outcome.code, 0) << outcome.err;
        break;
      }
      ++kills;
      expect_little_lost(run, kInterval, beside);
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
  // The instants follow the pace of the reference, which a machine that also does other work does not keep.
  if (full_figures()) {
    EXPECT_GE(within, kKills / 4) << "the instants do not cover the run";
  }
  measured("R2", "{0} of {0} random kills in {1} runs resumed bitwise ({2} between the first checkpoint and the last)",
           kills, runs, within);
  measured(
      "R3",
      "interval of {} steps: at most {} lost after {} kills of runs that wait for their saves; at most {} after {} "
      "kills of runs that save beside the training, more than {} only while the next checkpoint was being written",
      kInterval, most_lost_, kills_, most_lost_beside_, kills_beside_, kInterval);
  measured("R4", "{} checkpoints listed after {} kills, all complete", listed_, lists_);
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
  int kills = 0;
  for (int call = 1; call <= calls; call += figure(7, 1)) {
    ++kills;
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
  measured("R2", "{} kills at the {} disk calls of a run with two saves and a deletion resumed bitwise", kills, calls);
  measured("R3", "at most {} steps lost of an interval of 2, after each of {} kills", most_lost_, kills);
  measured("R4", "{} checkpoints listed after {} kills at disk calls, all complete", listed_, lists_);
}

// The comparison that R1 and R2 rest on sees one byte, and a listing a payload that is cut.
TEST_F(RunKill, ControlOneByteIsADifference) {
  const Overrides small = {"train.steps=10"};
  ASSERT_EQ(train("a", small).code, 0);
  ASSERT_EQ(train("b", small).code, 0);
  EXPECT_EQ(difference("b", "a", 10), "");
  const std::string good = read_file(payload("b", 10));
  flip_byte(payload("b", 10), good.size() / 2);
  EXPECT_NE(difference("b", "a", 10), "");
  fs::resize_file(payload("b", 10), good.size() - 1);
  EXPECT_NE(checkpoint::list(checkpoints("b")).back().damage, "");
  data::testing::write_file(payload("b", 10), good);
  EXPECT_EQ(difference("b", "a", 10), "");
  flip_byte(run_folder("b") / "metrics.jsonl", 20);
  EXPECT_NE(difference("b", "a", 10), "");
}

}  // namespace
}  // namespace t6::test
