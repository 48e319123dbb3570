// Connections of ranks that mpirun starts (connect_driver.cpp): they compute, agree, or end with one message.
#include "dist/connect.h"

#include <gtest/gtest.h>

#include "dist/mpi.h"
#include "dist/processes.h"
#include "dist/ranks_run.h"

namespace t6::dist {
namespace {

class Connected : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_mpi()) GTEST_SKIP() << "this build has no MPI";
    if (test::mpirun().empty()) GTEST_SKIP() << "there is no mpirun here";
  }
  static test::RanksOutcome run(int world, const std::string& what) {
    return test::run_ranks(world, {T6_CONNECT_DRIVER, what});
  }
  static void expect(const test::RanksOutcome& outcome, int code, const std::vector<std::string>& parts) {
    EXPECT_EQ(outcome.code, code) << outcome.text;
    EXPECT_FALSE(outcome.late);
    for (const std::string& part : parts) EXPECT_TRUE(says(outcome.text, part));
    size_t messages = 0;
    for (size_t at = outcome.text.find("t6: "); at != std::string::npos; at = outcome.text.find("t6: ", at + 1))
      ++messages;
    EXPECT_EQ(messages, parts.empty() ? 0U : 1U) << outcome.text;
  }
};

TEST_F(Connected, RanksOfMpirunComputeAndPart) {
  for (const int world : {1, 2, 4}) expect(run(world, "well"), 0, {});
}

TEST_F(Connected, DisagreementsAreSaidOnceByRankZero) {
  expect(run(3, "config"), 2, {"rank 1 on ", "another config than rank 0", "\"steps: 500\" and not \"steps: 400\""});
  expect(run(3, "gpu"), 2, {"ranks 0 and 1 on ", "use the same GPU (GPU-1)"});
  expect(run(3, "problem"), 6, {"rank 2 on ", "the disk is missing"});
  expect(run(3, "alone"), 2, {"rank 1 on ", "it has no device"});
  expect(run(3, "together"), 5, {"the loss is not finite"});
}

TEST_F(Connected, OneRanksErrorIsSaidWithItsPlace) {
  const test::RanksOutcome outcome = run(3, "error");
  expect(outcome, 3, {"rank 1 on ", "ended by an error at step 3, backward: the corpus is torn"});
  EXPECT_LT(outcome.seconds, 10);
}

TEST_F(Connected, ADeadRankIsSaidBeforeMpirunEndsTheOthers) {
  const test::RanksOutcome outcome = run(3, "kill");
  EXPECT_NE(outcome.code, 0);
  expect(outcome, outcome.code, {"rank 1 on ", "died"});
  EXPECT_LT(outcome.seconds, 10);
}

TEST(Connect, RanksOnCpusThatMpiDidNotStartAreToldHow) {
  Found found;
  found.launcher = Launcher::torchrun;
  found.ranks = {0, 2, 0, 2};
  found.address = {"127.0.0.1", 1};
  try {
    connect(found, kCpu);
    ADD_FAILURE() << "it was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_TRUE(says(error.what(), "MPI"));
  }
  found.ranks.rank = 1;
  EXPECT_THROW(connect(found, kCpu), SaidElsewhere);
}

TEST(Connect, EachLocalRankTakesItsGpu) {
  EXPECT_EQ(choose_gpu({3, 8, 3, 8}, 8), 3);
  EXPECT_EQ(choose_gpu({3, 8, 3, 8}, 1), 0);
  EXPECT_EQ(choose_gpu({0, 1, 5, 6}, 4), 0);
  EXPECT_THROW(choose_gpu({4, 8, 4, 8}, 4), Error);
}

}  // namespace
}  // namespace t6::dist
