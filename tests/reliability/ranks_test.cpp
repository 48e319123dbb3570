// Whole runs on several ranks by mpirun: the same losses as one rank, the same bits by a tree, another number of ranks after a
// resume, signals, and ranks that no longer hold the same numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dist/mpi.h"
#include "reliability/run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

class RunRanksHeavy : public RunTest {
 protected:
  static constexpr const char* kSteps20 = "train.steps=20";

  RunRanksHeavy() {
    if (!dist::has_mpi()) skip_ = true;
  }
  void SetUp() override {
    if (skip_) GTEST_SKIP() << "this build has no MPI";
  }

  pid_t start_ranks(int world, const std::string& run, const Overrides& overrides) {
    std::vector<std::string> arguments{"launch",
                                       "--nproc",
                                       std::to_string(world),
                                       "--",
                                       "train",
                                       "--config",
                                       "config.yaml",
                                       "run.dir=" + run,
                                       "run.threads=1",
                                       "train.global_batch=12",
                                       "train.micro_batch=1"};
    arguments.insert(arguments.end(), overrides.begin(), overrides.end());
    return start_program(arguments, {{"OMP_WAIT_POLICY", "passive"}});
  }
  Outcome train_on(int world, const std::string& run, const Overrides& overrides = {}) {
    return finish(start_ranks(world, run, overrides));
  }

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

 private:
  bool skip_ = false;
};

TEST_F(RunRanksHeavy, LossesAreThoseOfOneRank) {
  ASSERT_EQ(train_on(1, "one", {"train.steps=50"}).code, 0);
  for (const int world : {2, 3, 4}) {
    for (const char* zero : {"false", "true"}) {
      const std::string run = "ranks" + std::to_string(world) + zero;
      const Outcome outcome = train_on(world, run, {"train.steps=50", std::string("optimizer.zero=") + zero});
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      expect_close(run, "one", 1e-6);
      expect_checkpoints_intact(run);
    }
  }
}

// R12: the same tokens, and by a tree the same bits, whatever the number of ranks after each resume.
TEST_F(RunRanksHeavy, ResumesOnAnotherNumberOfRanksBitForBit) {
  const Overrides tree{"train.reduction=tree", "train.steps=40", "schedule.kind=constant"};
  ASSERT_EQ(train_on(1, "reference", tree).code, 0);
  int64_t until = 0;
  for (const int world : {1, 2, 4, 1}) {
    Overrides part = tree;
    part[1] = "train.steps=" + std::to_string(until += 10);
    part.push_back(world == 2 ? "optimizer.zero=true" : "optimizer.zero=false");
    const Outcome outcome = train_on(world, "run", part);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }
  // Each end of a part is evaluated, so only the lines of training are alike.
  const auto training = [&](const std::string& run) {
    std::istringstream lines(metrics(run));
    std::string kept;
    for (std::string line; std::getline(lines, line);) {
      if (line.find("\"kind\":\"train\"") != std::string::npos) kept += line + "\n";
    }
    return kept;
  };
  EXPECT_EQ(training("run"), training("reference"));
  measured("R12", "1, 2, 4 and 1 ranks after each other, on 2 with optimizer.zero: {} steps with the bits of one rank",
           until);
}

TEST_F(RunRanksHeavy, ASignalToOneRankStopsAllAfterTheSameStep) {
  const pid_t child = start_ranks(2, "run", {"train.steps=1000000", "schedule.kind=constant", "checkpoint.every=0"});
  for (int i = 0; i < 600 && last_logged("run") < 20; ++i) sleep_for(0.05);
  ::kill(child, SIGTERM);
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.code, 143) << outcome.err;
  EXPECT_EQ(newest_step("run"), last_logged("run"));
  EXPECT_GE(newest_step("run"), 20);
  expect_checkpoints_intact("run");
}

TEST_F(RunRanksHeavy, AWorldThatDoesNotDivideTheBatchIsSaidOnce) {
  const Outcome outcome = train_on(2, "run", {"train.global_batch=11"});
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  const size_t first = outcome.err.find("train.global_batch");
  ASSERT_NE(first, std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("expected a multiple of train.micro_batch x ranks"),
            outcome.err.rfind("expected a multiple of train.micro_batch x ranks"));
}

}  // namespace
}  // namespace t6::test
