// The communicator over NCCL, and that over MPI for tensors on a GPU, on ranks that mpirun starts (driver.cpp). With
// the emulated device the ranks are many and NCCL is emulated; on real GPUs there are as many ranks as GPUs.
#include "dist/nccl.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "dist/mpi.h"
#include "dist/ranks_run.h"
#include "support/device.h"
#include "support/program_run.h"

namespace t6 {
namespace {

using test::contains;
using test::run_ranks;

bool emulated() {
  return gpu::info(0).name == "emulated GPU";
}

// Why ranks cannot be started here; empty: they can.
std::string why_not(bool with_nccl) {
  if (!test::on_cuda()) return "runs as cuda.dist.* or multi_gpu.dist.*";
  if (gpu::count() == 0) return gpu::why_none();
  if (!dist::has_mpi()) return "this build has no MPI";
  if (test::mpirun().empty()) return "there is no mpirun here";
  if (with_nccl && !dist::has_nccl()) return "this build has no NCCL";
  return {};
}

void expect_success(const test::RanksOutcome& outcome) {
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_FALSE(outcome.late) << outcome.text;
}

class NcclOnAGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_not(true); !why.empty()) GTEST_SKIP() << why;
  }
};
class NcclRanksOnAGpu : public NcclOnAGpu, public testing::WithParamInterface<int> {};

TEST_P(NcclRanksOnAGpu, ComputeWhatOneWould) {
  if (!emulated() && GetParam() > gpu::count()) GTEST_SKIP() << "needs " << GetParam() << " GPUs";
  expect_success(run_ranks(GetParam(), {T6_DIST_DRIVER, "nccl", "cuda", "operations", "many", "texts"}));
}
INSTANTIATE_TEST_SUITE_P(, NcclRanksOnAGpu, testing::Values(1, 2, 3, 4));

TEST_F(NcclOnAGpu, TreeSumsInAnOrderThatTheWorldDoesNotChange) {
  std::set<std::string> sums;
  for (const int world : {1, 2, 4}) {
    if (!emulated() && world > gpu::count()) continue;
    const test::RanksOutcome outcome = run_ranks(world, {T6_DIST_DRIVER, "nccl", "cuda", "tree"});
    expect_success(outcome);
    sums.insert(outcome.line("tree "));
  }
  EXPECT_EQ(sums.size(), 1u);
  EXPECT_EQ(sums.count(""), 0u);
}

// Real NCCL hangs here, which is a watchdog's business.
TEST_F(NcclOnAGpu, UnequalTensorsAreAnErrorOnTheEmulatedDevice) {
  if (!emulated()) GTEST_SKIP() << "for the emulated device";
  test::RanksOutcome outcome = run_ranks(2, {T6_DIST_DRIVER, "nccl", "cuda", "unequal"}, {}, 30);
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::peer)) << outcome.text;
  EXPECT_TRUE(contains(outcome.text, "unequal: [nccl] wait: invalid usage"));
  EXPECT_TRUE(contains(outcome.text, "does something else: operation 0 of"));
  EXPECT_LT(outcome.seconds, 15);
  outcome = run_ranks(2, {T6_DIST_DRIVER, "nccl", "cuda", "short"}, {}, 30);
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::peer)) << outcome.text;
}

TEST_F(NcclOnAGpu, AnAbortFromAnotherThreadEndsTheWait) {
  if (!emulated() && gpu::count() < 2) GTEST_SKIP() << "needs 2 GPUs";
  const test::RanksOutcome outcome = run_ranks(2, {T6_DIST_DRIVER, "nccl", "cuda", "abort"}, {}, 30);
  EXPECT_EQ(outcome.code, static_cast<int>(ExitCode::peer)) << outcome.text;
  EXPECT_TRUE(contains(outcome.text, "rank 0: abort: [nccl] wait: it was given up"));
  EXPECT_LT(outcome.seconds, 15);
}

TEST_F(NcclOnAGpu, ARankThatCannotTakePartIsNamedOnAllRanks) {
  const Device gpu{Device::Kind::cuda, 0};
  const auto texts = [](std::string_view mine) {
    return std::vector<std::string>{std::string(mine), "-expected NCCL 2, found none"};
  };
  try {
    dist::nccl({.rank = 0, .world = 2}, gpu, texts, true);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_STREQ(error.what(), "rank 1 cannot take part in NCCL: expected NCCL 2, found none");
  }
}

class MpiRanksOnAGpu : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (const std::string why = why_not(false); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_P(MpiRanksOnAGpu, ComputeWhatOneWould) {
  expect_success(run_ranks(GetParam(), {T6_DIST_DRIVER, "mpi", "cuda", "operations", "many", "tree"}, {}, 120));
}
INSTANTIATE_TEST_SUITE_P(, MpiRanksOnAGpu, testing::Values(1, 2, 3));

TEST(MultiGpu, NcclOnAllGpusComputesWhatOneWould) {
  if (const std::string why = why_not(true); !why.empty()) GTEST_SKIP() << why;
  if (gpu::count() < 2) GTEST_SKIP() << "needs 2 GPUs, there is 1";
  const int world = std::min(gpu::count(), 8);
  std::vector<std::string> command = {T6_DIST_DRIVER, "nccl", "cuda", "operations", "many", "texts", "tree"};
  if (!emulated()) command.push_back("speed");
  const test::RanksOutcome outcome = run_ranks(world, command, {}, 240);
  expect_success(outcome);
  std::printf("%s", outcome.text.c_str());
}

TEST(NcclNone, SaysThatThisBuildHasNone) {
  if (dist::has_nccl()) GTEST_SKIP() << "this build has NCCL";
  try {
    dist::nccl({.rank = 0, .world = 2}, kCpu, {}, true);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_TRUE(contains(error.what(), "this build has no NCCL"));
  }
}

}  // namespace
}  // namespace t6
