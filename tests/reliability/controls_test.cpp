// Mistakes on purpose, one for each promise whose own tests hold none: what those tests look at must show them.
#include <sys/wait.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "run_support.h"

namespace t6::test {
namespace {

using data::testing::bin16;
using data::testing::write_file;

class RunControls : public RunTest {
 protected:
  static inline const Overrides kEndless = {"train.steps=100000000", "schedule.kind=constant", "checkpoint.every=0",
                                            "evaluation.every=0", "logging.every=1000"};
  void wait_for_step(const std::string& run, int64_t step) const {
    const double limit = seconds_now() + 60;
    while (last_logged(run) < step && seconds_now() < limit) sleep_for(0.005);
    ASSERT_GE(last_logged(run), step);
  }
};

// R5: damage whose hashes were made to fit it is not found, and the run goes another way.
TEST_F(RunControls, R5DamageWithItsHashesIsNotFound) {
  ASSERT_EQ(train("reference").code, 0);
  ASSERT_EQ(train("run", {"train.steps=30", "schedule.decay_steps=25"}).code, 0);
  rewrite_newest("run", [](checkpoint::State&, std::map<std::string, Tensor>& tensors) {
    tensors.at("params/transformer.wte.weight").data<float>()[3] *= 1.5F;
  });
  const Outcome outcome = train("run");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_FALSE(contains(outcome.err, "damaged")) << outcome.err;
  EXPECT_NE(difference("run", "reference"), "");
}

// R7: a disk that takes nothing and says that it did leaves checkpoints that do not verify, or saves that fail.
TEST_F(RunControls, R7ADiskThatLiesIsFound) {
  const Outcome outcome = drive("run", {{"T6_SWALLOW_WRITE", "rank-00000.h5"}}, {"train.steps=10"});
  const std::vector<checkpoint::Entry> entries = checkpoint::list(checkpoints("run"));
  bool found = outcome.code != 0 || entries.empty();
  for (const checkpoint::Entry& entry : entries) found |= !entry.damage.empty();
  EXPECT_TRUE(found) << outcome.err;
}

// R8: a program that takes no signal saves nothing when one ends it.
TEST_F(RunControls, R8ASignalThatIsNotTakenSavesNothing) {
  const pid_t child = start("run", kEndless, {{"T6_TAKE_NO_SIGNAL", "1"}}, true);
  wait_for_step("run", 5);
  ::kill(child, SIGTERM);
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.signal, SIGTERM);
  EXPECT_NE(newest_step("run"), last_logged("run"));
}

// R9: a clock that stands still never comes to max_runtime.
TEST_F(RunControls, R9WithAClockThatStandsTheTimeIsNotKept) {
  Overrides limited = kEndless;
  limited.emplace_back("train.max_runtime=4s");  // more than a busy machine takes to the first step
  const double began = seconds_now();
  const pid_t child = start("run", limited, {{"T6_STOP_CLOCK", "1"}}, true);
  wait_for_step("run", 5);
  sleep_for(began + 5.5 - seconds_now());
  EXPECT_EQ(::waitpid(child, nullptr, WNOHANG), 0) << "it ended";
  ::kill(child, SIGKILL);
  finish(child);
  EXPECT_EQ(newest_step("run"), -1);
}

// R17, R18: what is no mistake is taken by the same commands, so a refusal is one of the mistake.
TEST_F(RunControls, R17AConfigWithoutAMistakeIsTaken) {
  write_file(folder() / "bad.yaml", "train: {steps: 5}\nschedule: {warmup_steps: 3}\n");
  const Outcome outcome = program({"train", "--config", "config.yaml", "--config", "bad.yaml", "run.dir=run"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(newest_step("run"), 5);
}

TEST_F(RunControls, R18AShardWhoseIdsAreOthersIsTaken) {
  std::vector<uint32_t> ids = learnable_ids(20000, kVocabulary, 1);
  ids[5000] = (ids[5000] + 1) % kVocabulary;
  write_file(folder() / "bad.bin", bin16(ids));
  const Outcome outcome = train("run", {"data.train=[bad.bin]", "train.steps=10"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

// R25: where nothing was recorded no difference is said.
TEST_F(RunControls, R25WithoutFactsNothingIsSaid) {
  ASSERT_EQ(train("run", {"train.steps=5", "run.threads=1"}).code, 0);
  const Overrides other{"train.steps=10", "run.threads=2"};
  const checkpoint::Inspected about = checkpoint::inspect(checkpoints("run"));
  fs::copy(run_folder("run"), run_folder("recorded"), fs::copy_options::recursive);
  EXPECT_TRUE(contains(train("recorded", other).err, "threads/omp_max_threads: 1 -> 2"));
  rewrite_newest(
      "run", [](auto&, auto&) {}, [](nlohmann::json& facts) { facts["environment"].clear(); });
  const Outcome outcome = train("run", other);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_FALSE(contains(outcome.err, "omp_max_threads")) << outcome.err;
}

}  // namespace
}  // namespace t6::test
