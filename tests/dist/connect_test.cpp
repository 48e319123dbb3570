// Connections of ranks that mpirun starts (connect_driver.cpp): they compute, agree, or end with one message.
#include "dist/connect.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "data/shard_files.h"
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
  // All ranks end by themselves with `code`, and rank 0 alone says why.
  static void expect_refused(int world, const std::string& what, int code, const std::vector<std::string>& parts) {
    SCOPED_TRACE(what);
    const data::testing::TempFolder folder;
    test::RanksOutcome outcome = test::run_ranks(world, test::recorded(folder.path(), {T6_CONNECT_DRIVER, what}));
    const std::vector<test::RankEnd> ends = test::rank_ends(folder.path(), world);
    for (const test::RankEnd& end : ends) {
      EXPECT_TRUE(end.ended_with(code)) << "rank " << &end - ends.data() << " ended with " << end.code;
      EXPECT_EQ(end.err.find("t6: ") != std::string::npos, &end == ends.data()) << end.err;
      outcome.text += end.err;
    }
    expect(outcome, code, parts);
  }
};

TEST_F(Connected, RanksOfMpirunComputeAndPart) {
  for (const int world : {1, 2, 4}) expect(run(world, "well"), 0, {});
}

TEST_F(Connected, DisagreementsAreSaidOnceByRankZero) {
  expect_refused(3, "config", 2, {"rank 1 on ", "another config than rank 0", "\"steps: 500\" and not \"steps: 400\""});
  expect_refused(2, "longer", 2, {"rank 1 on ", "another build than rank 0", "\"MPI 4\" and not nothing"});
  expect_refused(3, "gpu", 2, {"ranks 0 and 1 on ", "use the same GPU (GPU-1)"});
  expect_refused(3, "problem", 6, {"rank 2 on ", "the disk is missing"});
  expect_refused(3, "alone", 2, {"rank 1 on ", "it has no device"});
  expect_refused(3, "together", 5, {"the loss is not finite"});
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

// Ranks that torchrun started, without MPI.
std::vector<Ended> connect_ranks(int world, const std::function<Beginning(int rank)>& prepare) {
  const int port = free_port();
  Processes processes;
  processes.start(world, [&](int rank) {
    Found found;
    found.launcher = Launcher::torchrun;
    found.ranks = {rank, world, rank, world};
    found.address = {"127.0.0.1", port};
    found.nonce = "n";
    connect(found, [&] { return prepare(rank); });
    return 0;
  });
  return processes.wait(40);
}

void expect_refusal(const std::vector<Ended>& ended, int code, const std::vector<std::string>& parts) {
  for (const Ended& each : ended) {
    EXPECT_EQ(each.code, code) << each.err;
    EXPECT_LT(each.seconds, 30);
  }
  const std::string text = all_said(ended);
  EXPECT_EQ(text.find("t6: "), text.rfind("t6: ")) << text;
  for (const std::string& part : parts) EXPECT_TRUE(says(ended[0].err, part));
}

TEST(Connect, RanksOnCpusThatMpiDidNotStartAreToldHow) {
  expect_refusal(connect_ranks(2, [](int) { return Beginning{}; }), 2, {"talk by MPI", "t6 launch --by mpi --nproc 2"});
}

TEST(Connect, WhatOneRankAloneHasAgainstBeginningIsSaidByRankZero) {
  const auto fails_on = [](const std::vector<int>& ranks) {
    return connect_ranks(3, [&](int rank) -> Beginning {
      if (std::find(ranks.begin(), ranks.end(), rank) != ranks.end()) {
        fail(ExitCode::data, "rank {} has no tokenizer", rank);
      }
      return {};
    });
  };
  expect_refusal(fails_on({2}), 3, {"rank 2 on " + host_name(), "rank 2 has no tokenizer"});
  expect_refusal(fails_on({0}), 3, {"t6: rank 0 has no tokenizer"});
  expect_refusal(fails_on({0, 1, 2}), 3, {"t6: rank 0 has no tokenizer"});
}

TEST(Connect, MoreRanksThanGpusAreRefusedByRankZero) {
  const auto ended = connect_ranks(4, [](int rank) {
    return Beginning{{Device::Kind::cuda, choose_gpu({rank, 4, rank, 4}, 2)}, {}};
  });
  expect_refusal(ended, 2, {"rank 2 on " + host_name(), "as local rank 2", "2 can be used"});
}

TEST(Connect, RanksOnDifferentDevicesAreRefusedByRankZero) {
  for (const int on_gpu : {0, 1}) {
    const auto ended = connect_ranks(2, [&](int rank) {
      return Beginning{rank == on_gpu ? Device{Device::Kind::cuda, 0} : kCpu, {}};
    });
    expect_refusal(ended, 2, {"rank 1 on " + host_name(), "another kind of device than rank 0", "run.device"});
  }
}

TEST(Connect, EachLocalRankTakesItsGpu) {
  EXPECT_EQ(choose_gpu({3, 8, 3, 8}, 8), 3);
  EXPECT_EQ(choose_gpu({3, 8, 3, 8}, 1), 0);
  EXPECT_EQ(choose_gpu({0, 1, 5, 6}, 4), 0);
  EXPECT_THROW(choose_gpu({4, 8, 4, 8}, 4), Error);
}

}  // namespace
}  // namespace t6::dist
