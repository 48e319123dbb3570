// R5, R7, R14 for whole runs: damaged checkpoints, full disks, numbers that are not finite.
#include <sys/mount.h>

#include <csignal>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;
using data::testing::write_file;

class RunDamage : public RunTest {
 protected:
  void make_reference() {
    const Outcome outcome = train("reference");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }
  void copy_run(const std::string& from, const std::string& to) {
    fs::remove_all(run_folder(to));
    fs::copy(run_folder(from), run_folder(to), fs::copy_options::recursive);
  }
  // Replaces one element of a tensor in the newest checkpoint, which stays a valid one.
  void poison(const std::string& run, const std::string& tensor_name, float value) {
    rewrite_newest(run, [&](checkpoint::State&, std::map<std::string, Tensor>& tensors) {
      ASSERT_EQ(tensors.at(tensor_name).dtype(), DType::f32) << tensor_name;
      tensors.at(tensor_name).data<float>()[3] = value;
    });
  }
};

TEST_F(RunDamage, FallsBackToTheNewestIntactCheckpoint) {
  make_reference();
  struct Case {
    const char* name;
    std::string file;  // that the warning names
    std::function<void(const fs::path& payload)> damage;
  };
  const std::vector<Case> cases = {
      {"flip", "rank-00000.h5", [](const fs::path& p) { flip_byte(p, fs::file_size(p) / 2); }},
      {"cut", "rank-00000.h5", [](const fs::path& p) { fs::resize_file(p, fs::file_size(p) - 100); }},
      {"missing", "rank-00000.h5", [](const fs::path& p) { fs::remove(p); }},
      {"manifest", "manifest.json", [](const fs::path& p) { flip_byte(p.parent_path() / "manifest.json", 300); }},
      {"no manifest", "manifest.json", [](const fs::path& p) { fs::remove(p.parent_path() / "manifest.json"); }},
      {"empty", "rank-00000.h5", [](const fs::path& p) { fs::resize_file(p, 0); }},
      {"a folder", "rank-00000.h5", [](const fs::path& p) { fs::remove(p), fs::create_directory(p); }},
  };
  for (const Case& one : cases) {
    copy_run("reference", "run");
    one.damage(payload("run", kSteps));
    const Outcome outcome = train("run");
    EXPECT_EQ(outcome.code, 0) << one.name << "\n" << outcome.err;
    EXPECT_TRUE(contains(outcome.err, fmt::format("step-{:08}/{}", kSteps, one.file))) << one.name;
    EXPECT_TRUE(contains(outcome.err, fmt::format("step-{:08}", kSteps - kInterval))) << one.name;
    EXPECT_TRUE(contains(read_file(run_folder("run") / "train.log"), "damaged")) << one.name;
    expect_equal_runs("run", "reference");
    expect_checkpoints_intact("run");
  }
}

TEST_F(RunDamage, NoIntactCheckpointIsNoFreshStart) {
  make_reference();
  for (const int64_t step : {kSteps - 2 * kInterval, kSteps - kInterval, kSteps})
    flip_byte(payload("reference", step), 5000);
  const auto before = snapshot("reference");
  const Outcome outcome = train("reference");
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "none of the 3 checkpoints"));
  EXPECT_EQ(snapshot("reference"), before);
  measured("R5", "none intact: exit 4 and no fresh start");
}

TEST_F(RunDamage, ACheckpointWithoutAPositionIsRefused) {
  make_reference();
  const checkpoint::Inspected about = checkpoint::inspect(checkpoints("reference"));
  checkpoint::State state;
  for (const checkpoint::TensorFacts& facts : about.tensors) {
    state.tensors.push_back(checkpoint::tensor_ref(facts.name, Tensor::zeros(facts.shape, facts.dtype)));
  }
  checkpoint::SaveOptions options;
  options.facts = about.facts;
  checkpoint::save(checkpoints("reference"), 70, state, options);
  const Outcome outcome = train("reference");
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "step-00000070"));
}

// ---- Full disks. Metrics are written once a step and once a validation, the first being that of step 0.

TEST_F(RunDamage, AFullDiskForAWhile) {
  make_reference();
  const Outcome outcome = drive("run", {{"T6_FULL", "9-20"}});  // the saves of steps 10 and 15
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "step 10 was not saved"));
  EXPECT_TRUE(contains(outcome.err, "2 of 3"));
  EXPECT_TRUE(contains(outcome.err, "No space left on device"));
  EXPECT_TRUE(contains(outcome.err, "are free"));
  expect_equal_runs("run", "reference");
  expect_checkpoints_intact("run");
}

TEST_F(RunDamage, AFailingSaveSaysWhatItNeeds) {
  make_reference();
  // Full after the line of step 5.
  const Outcome outcome = drive("run", {{"T6_FULL", "6-7"}, {"T6_FULL_IN", "checkpoints"}});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  for (const char* part : {"step 5 was not saved", "1 of 3", "rank-00000.h5", "No space left on device", "it needs",
                           "are free", "older checkpoints are intact"}) {
    EXPECT_TRUE(contains(outcome.err, part));
  }
  expect_equal_runs("run", "reference");
}

TEST_F(RunDamage, ThreeFailedSavesInARowEndTheRun) {
  make_reference();
  const Outcome outcome = drive("run", {{"T6_FULL", "13-1000000"}});  // from step 11 on
  EXPECT_EQ(outcome.code, 6) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "2 of 3"));
  EXPECT_TRUE(contains(outcome.err, "No space left on device"));
  EXPECT_EQ(newest_step("run"), 10);
  expect_checkpoints_intact("run");
  const Outcome resumed = train("run");
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  expect_equal_runs("run", "reference");
  measured("R7", "a run outlives 2 failed saves bitwise, a third in a row ends it with exit 6");
}

TEST_F(RunDamage, ASignalOnAFullDiskSaysThatNothingWasSaved) {
  const pid_t child = start("run", {"train.steps=100000000", "schedule.kind=constant", "checkpoint.every=0"},
                            {{"T6_FULL", "20-1000000"}}, true);
  const double limit = seconds_now() + 60;
  while (last_logged("run") < 10 && seconds_now() < limit) sleep_for(0.002);
  sleep_for(0.2);
  ::kill(child, SIGTERM);
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.code, 6) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "could not be saved"));
  EXPECT_EQ(newest_step("run"), -1);
}

TEST_F(RunDamage, RefusesToStartWhenNotOneCheckpointFits) {
  const Outcome outcome = drive("run", {{"T6_FREE_BYTES", "10000"}});
  EXPECT_EQ(outcome.code, 6) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "10000 bytes) are free"));
  EXPECT_TRUE(contains(outcome.err, "no room for a checkpoint"));
  EXPECT_FALSE(fs::exists(run_folder("run") / "metrics.jsonl"));
  measured("R7", "no start where not one checkpoint fits");
}

// The same on a real small file system, where mounting one is allowed.
TEST_F(RunDamage, ASmallFileSystemThatFillsUp) {
  const fs::path small = folder() / "small";
  fs::create_directory(small);
  if (::mount("t6", small.c_str(), "tmpfs", 0, "size=3m") != 0) GTEST_SKIP() << "mounting is not allowed here";
  const std::shared_ptr<void> unmount(nullptr, [small](void*) { ::umount2(small.c_str(), MNT_DETACH); });
  const Overrides slow = {"run.dir=small/run", "checkpoint.every=200", "train.steps=100000000",
                          "schedule.kind=constant"};
  const pid_t child = start("small/run", slow);
  double limit = seconds_now() + 60;
  while (newest_step("small/run") < 200 && seconds_now() < limit) sleep_for(0.005);
  std::string ballast(4 << 20, 'x');
  write_file(small / "ballast", ballast);
  const auto log = [&] { return read_file(small / "run" / "train.log") + read_file(folder() / kStandardError); };
  while (!contains(log(), "was not saved") && seconds_now() < limit) sleep_for(0.005);
  const int64_t kept = newest_step("small/run");
  fs::remove(small / "ballast");
  while (newest_step("small/run") <= kept && seconds_now() < limit) sleep_for(0.005);
  ::kill(child, SIGTERM);
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.code, 143) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "are free"));
  EXPECT_GT(newest_step("small/run"), kept);
  expect_checkpoints_intact("small/run");
  EXPECT_EQ(last_logged("small/run"), newest_step("small/run"));

  // Full until three saves have failed. Not even train.log takes a line then.
  const int64_t stopped = newest_step("small/run");
  const pid_t doomed = start("small/run", slow);
  limit = seconds_now() + 60;
  while (newest_step("small/run") <= stopped && seconds_now() < limit) sleep_for(0.005);
  write_file(small / "ballast", ballast);
  const Outcome ended = finish(doomed);
  EXPECT_EQ(ended.code, 6) << ended.err;
  EXPECT_TRUE(contains(ended.err, "2 of 3"));
  EXPECT_TRUE(contains(ended.err, "could not be saved"));
  EXPECT_GT(newest_step("small/run"), stopped);
  expect_checkpoints_intact("small/run");
  const Outcome again = train("small/run", slow);
  EXPECT_EQ(again.code, 6) << again.err;
  EXPECT_FALSE(again.err.empty());

  // Full before the first start.
  const Outcome refused = train("small/other", {"run.dir=small/other"});
  EXPECT_EQ(refused.code, 6) << refused.err;
}

// ---- R14.

TEST_F(RunDamage, ANonFiniteLossIsNeverApplied) {
  make_reference();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& [tensor, value] :
       std::vector<std::pair<std::string, float>>{{"params/transformer.wte.weight", kNan},
                                                  {"params/transformer.wte.weight", kInfinity},
                                                  {"params/transformer.h.0.mlp.c_proj.weight", kNan},
                                                  {"params/transformer.h.0.mlp.c_proj.weight", 3e38F}}) {
    copy_run("reference", "run");
    fs::remove_all(payload("run", kSteps).parent_path());
    poison("run", tensor, value);
    const auto before = snapshot("run");
    const Outcome outcome = train("run");
    EXPECT_EQ(outcome.code, 5) << tensor << " " << value << "\n" << outcome.err;
    EXPECT_TRUE(contains(outcome.err, fmt::format("step {}", kSteps - kInterval + 1)));
    const auto after = snapshot("run");
    for (const auto& [name, bytes] : before) {
      if (!name.starts_with("checkpoints")) continue;
      EXPECT_TRUE(after.contains(name) && after.at(name) == bytes) << name;
    }
    EXPECT_EQ(newest_step("run"), kSteps - kInterval);
    EXPECT_LE(last_logged("run"), kSteps - kInterval);
  }
}

// Finite loss and gradients, but the update overflows: what it leads to is not saved over good checkpoints.
TEST_F(RunDamage, ParametersThatAreNotFiniteAreNotSaved) {
  make_reference();
  copy_run("reference", "run");
  fs::remove_all(payload("run", kSteps).parent_path());
  poison("run", "adamw/m/transformer.wte.weight", std::numeric_limits<float>::quiet_NaN());
  const Outcome outcome = train("run", {"checkpoint.every=1"});
  EXPECT_EQ(outcome.code, 5) << outcome.err;
  EXPECT_EQ(newest_step("run"), kSteps - kInterval);
}

}  // namespace
}  // namespace t6::test
