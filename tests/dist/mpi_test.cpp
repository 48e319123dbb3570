// The communicator over MPI, on ranks that mpirun starts (driver.cpp).
#include "dist/mpi.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "dist/ranks_run.h"
#include "support/program_run.h"

namespace t6 {
namespace {

using test::contains;
using test::run_ranks;

class Mpi : public testing::Test {
 protected:
  void SetUp() override {
    if (!dist::has_mpi()) GTEST_SKIP() << "this build has no MPI";
    if (test::mpirun().empty()) GTEST_SKIP() << "there is no mpirun here";
  }
};
class MpiOnRanks : public Mpi, public testing::WithParamInterface<int> {};

void expect_success(const test::RanksOutcome& outcome) {
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_FALSE(outcome.late) << outcome.text;
}

TEST_P(MpiOnRanks, ComputeWhatOneWould) {
  expect_success(run_ranks(GetParam(), {T6_DIST_DRIVER, "mpi", "cpu", "operations", "many", "texts"}));
}
INSTANTIATE_TEST_SUITE_P(, MpiOnRanks, testing::Values(1, 2, 3, 4));

TEST_F(Mpi, TreeSumsInAnOrderThatTheWorldDoesNotChange) {
  std::set<std::string> sums;
  for (const int world : {1, 2, 3, 4, 5}) {
    const test::RanksOutcome outcome = run_ranks(world, {T6_DIST_DRIVER, "mpi", "cpu", "tree"});
    expect_success(outcome);
    if (8 % world != 0) continue;
    sums.insert(outcome.line("tree "));
  }
  EXPECT_EQ(sums.size(), 1u);
  EXPECT_EQ(sums.count(""), 0u);
}

TEST_F(Mpi, WaitsWithoutUsingTheProcessor) {
  expect_success(run_ranks(2, {T6_DIST_DRIVER, "mpi", "cpu", "waiting"}));
}

TEST_F(Mpi, NamesTheOperationThatFailed) {
  const test::RanksOutcome outcome = run_ranks(2, {T6_DIST_DRIVER, "mpi", "cpu", "short"}, {}, 20);
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::peer)) << outcome.text;
  EXPECT_TRUE(contains(outcome.text, "rank 1: short: [mpi] receive: expected 100 elements from rank 0, 99 came"));
  EXPECT_FALSE(outcome.late);
}

TEST_F(Mpi, AnAbortFromAnotherThreadEndsTheWait) {
  const test::RanksOutcome outcome = run_ranks(2, {T6_DIST_DRIVER, "mpi", "cpu", "abort"}, {}, 20);
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::peer)) << outcome.text;
  EXPECT_TRUE(contains(outcome.text, "rank 0: abort: [mpi] receive was given up"));
  EXPECT_LT(outcome.seconds, 10) << outcome.text;
}

TEST_F(Mpi, ARankThatEndsByAnExceptionWaitsForNobody) {
  const test::RanksOutcome outcome = run_ranks(3, {T6_DIST_DRIVER, "mpi", "cpu", "throw"}, {}, 20);
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::numeric)) << outcome.text;
  EXPECT_TRUE(contains(outcome.text, "rank 1: throw: thrown on purpose"));
  EXPECT_LT(outcome.seconds, 10) << outcome.text;
}

TEST_F(Mpi, RefusesRanksThatAreNotThoseOfMpi) {
  const test::RanksOutcome outcome = run_ranks(2, {T6_DIST_DRIVER, "mpi", "cpu", "texts"}, {"T6_TEST_WORLD=3"}, 20);
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::usage)) << outcome.text;
  EXPECT_TRUE(contains(outcome.text, "rank 1 of 3, but to MPI it is rank 1 of 2"));
}

TEST(MpiNone, SaysThatThisBuildHasNone) {
  if (dist::has_mpi()) GTEST_SKIP() << "this build has MPI";
  try {
    dist::mpi({.rank = 0, .world = 2}, kCpu);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_TRUE(contains(error.what(), "this build has no MPI"));
  }
}

}  // namespace
}  // namespace t6
