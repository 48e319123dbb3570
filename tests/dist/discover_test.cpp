// Rank discovery: what each launcher says, which of them is believed, and what is refused.
#include "dist/discover.h"

#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace t6::dist {
namespace {

using Variables = std::map<std::string, std::string>;

Found find(const Variables& variables, const RankFlags& flags = {}) {
  return discover(flags, [&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

Variables operator+(Variables a, const Variables& b) {
  for (const auto& [name, value] : b) a[name] = value;
  return a;
}

const Variables kTorchrun{{"RANK", "5"},
                          {"WORLD_SIZE", "8"},
                          {"LOCAL_RANK", "1"},
                          {"LOCAL_WORLD_SIZE", "4"},
                          {"MASTER_ADDR", "node1"},
                          {"MASTER_PORT", "29500"}};
const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "2"},
                         {"OMPI_COMM_WORLD_SIZE", "4"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
const Variables kMpich{{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}};
const Variables kSlurmJob{{"SLURM_JOB_ID", "1234"}, {"SLURM_NTASKS", "6"}, {"SLURM_PROCID", "0"},
                          {"SLURM_LOCALID", "0"},   {"SLURM_NODEID", "0"}, {"SLURM_NTASKS_PER_NODE", "2"}};
const Variables kSlurmStep = kSlurmJob + Variables{{"SLURM_STEP_ID", "3"},
                                                   {"SLURM_STEP_NUM_TASKS", "5"},
                                                   {"SLURM_PROCID", "4"},
                                                   {"SLURM_LOCALID", "0"},
                                                   {"SLURM_NODEID", "2"},
                                                   {"SLURM_STEP_TASKS_PER_NODE", "2(x2),1"},
                                                   {"SLURM_STEP_NODELIST", "gpu[07-08,12],login"}};
const RankFlags kFlags{1, 2, {}, {}, "localhost:4000"};

struct Good {
  const char* what;
  Variables variables;
  RankFlags flags;
  int rank, world, local_rank, local_world;
  Launcher launcher;
  bool mpi;
  const char* address;
};

TEST(Discover, EveryLauncherIsUnderstood) {
  const Variables slurm_pmix = kSlurmStep + Variables{{"PMIX_RANK", "4"}};
  std::vector<Good> cases;
  const auto add = [&](const char* what, const Variables& variables, const RankFlags& flags, int rank, int world,
                       int local_rank, int local_world, Launcher launcher, bool mpi, const char* address) {
    cases.push_back({what, variables, flags, rank, world, local_rank, local_world, launcher, mpi, address});
  };
  add("nothing", {}, {}, 0, 1, 0, 1, Launcher::none, false, ":0");
  add("flags", {}, kFlags, 1, 2, 1, 2, Launcher::flags, false, "localhost:4000");
  add("flags on two hosts", {}, {3, 4, 1, 2, "[fe80::1]:4000"}, 3, 4, 1, 2, Launcher::flags, false, "[fe80::1]:4000");
  add("one by flags", {}, {0, 1, {}, {}, ""}, 0, 1, 0, 1, Launcher::flags, false, ":0");
  add("torchrun", kTorchrun, {}, 5, 8, 1, 4, Launcher::torchrun, false, "node1:29500");
  add("torchrun's agent has its port", kTorchrun + Variables{{"TORCHELASTIC_USE_AGENT_STORE", "True"}}, {}, 5, 8, 1, 4,
      Launcher::torchrun, false, "node1:29501");
  add("mpirun", kOpenMpi, {}, 2, 4, 0, 2, Launcher::open_mpi, true, ":0");
  add("mpiexec", kMpich, {}, 1, 2, 1, 2, Launcher::mpich, true, ":0");
  add("srun", kSlurmStep, {}, 4, 5, 0, 1, Launcher::slurm, false, "gpu07:23257");
  add("srun --mpi=pmix", slurm_pmix, {}, 4, 5, 0, 1, Launcher::slurm, true, "gpu07:23257");
  add("srun with an address", kSlurmStep + Variables{{"MASTER_ADDR", "h"}, {"MASTER_PORT", "9"}}, {}, 4, 5, 0, 1,
      Launcher::slurm, false, "h:9");
  // The allocation's number of ranks a host stays in the variables of a smaller step.
  const Variables small_step =
      kSlurmStep + Variables{{"SLURM_NTASKS", "16"}, {"SLURM_NTASKS_PER_NODE", "8"},     {"SLURM_STEP_NUM_TASKS", "1"},
                             {"SLURM_PROCID", "0"},  {"SLURM_STEP_TASKS_PER_NODE", "1"}, {"SLURM_NODEID", "0"}};
  add("srun -n 1 in a larger allocation", small_step, {}, 0, 1, 0, 1, Launcher::slurm, false, "gpu07:23257");
  add("the same without the step's list", small_step + Variables{{"SLURM_STEP_TASKS_PER_NODE", ""}}, {}, 0, 1, 0, 1,
      Launcher::slurm, false, "gpu07:23257");
  add("more on this host than the allocation was asked for",
      kSlurmStep + Variables{{"SLURM_NTASKS_PER_NODE", "1"}, {"SLURM_LOCALID", "1"}, {"SLURM_NODEID", "0"}}, {}, 4, 5,
      1, 2, Launcher::slurm, false, "gpu07:23257");
  add("the batch script itself", kSlurmJob, {}, 0, 1, 0, 1, Launcher::none, false, ":0");
  add("the batch script, as newer versions number it", kSlurmJob + Variables{{"SLURM_STEP_ID", "4294967291"}}, {}, 0, 1,
      0, 1, Launcher::none, false, ":0");
  add("a shell of salloc", {{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}}, {}, 0, 1, 0, 1, Launcher::none, false, ":0");
  add("mpirun inside sbatch", kSlurmStep + kOpenMpi, {}, 2, 4, 0, 2, Launcher::open_mpi, true, ":0");
  add("torchrun inside mpirun", kTorchrun + kOpenMpi + Variables{{"TORCHELASTIC_RUN_ID", "r"}}, {}, 5, 8, 1, 4,
      Launcher::torchrun, false, "node1:29500");
  add("mpirun, and a script that says the same in torchrun's words",
      kOpenMpi + Variables{{"RANK", "2"}, {"WORLD_SIZE", "4"}}, {}, 2, 4, 0, 2, Launcher::torchrun, true, ":0");
  add("torchrun's words for one rank in a step of one",
      kTorchrun + Variables{{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}}, {}, 5, 8, 1, 4,
      Launcher::torchrun, false, "node1:29500");
  add("empty variables are none", {{"RANK", ""}, {"WORLD_SIZE", ""}}, {}, 0, 1, 0, 1, Launcher::none, false, ":0");
  add("LOCAL_RANK alone is nobody's", {{"LOCAL_RANK", "3"}}, {}, 0, 1, 0, 1, Launcher::none, false, ":0");
  for (const Good& good : cases) {
    SCOPED_TRACE(good.what);
    Found found;
    ASSERT_NO_THROW(found = find(good.variables, good.flags));
    EXPECT_EQ(found.ranks.rank, good.rank);
    EXPECT_EQ(found.ranks.world, good.world);
    EXPECT_EQ(found.ranks.local_rank, good.local_rank);
    EXPECT_EQ(found.ranks.local_world, good.local_world);
    EXPECT_EQ(found.launcher, good.launcher);
    EXPECT_EQ(found.mpi, good.mpi);
    EXPECT_EQ(found.address.text(), good.address);
  }
}

TEST(Discover, NoncesTellRunsApart) {
  EXPECT_EQ(find(kTorchrun).nonce, "");
  EXPECT_EQ(find(kTorchrun + Variables{{"TORCHELASTIC_RUN_ID", "run7"}, {"TORCHELASTIC_RESTART_COUNT", "2"}}).nonce,
            "run7.2");
  EXPECT_EQ(find(kTorchrun + Variables{{kNonceVariable, "abc"}}).nonce, "abc");
  EXPECT_EQ(find(kSlurmStep).nonce, "slurm.1234.3");
}

TEST(Discover, NodeListsNameTheirFirstHost) {
  const std::vector<std::pair<const char*, const char*>> lists{
      {"gpu7", "gpu7"},           {"gpu7,gpu8", "gpu7"},      {"gpu[007-009]", "gpu007"},   {"a,gpu[7-9]", "a"},
      {"gpu[3,5]-ib", "gpu3-ib"}, {"gpu[3]-ib,x", "gpu3-ib"}, {"r1n[08-11],r2n01", "r1n08"}};
  for (const auto& [list, host] : lists) {
    EXPECT_EQ(find(kSlurmStep + Variables{{"SLURM_STEP_NODELIST", list}}).address.host, host) << list;
  }
}

struct Bad {
  const char* what;
  Variables variables;
  RankFlags flags;
  std::vector<const char*> says;
};

TEST(Discover, WhatDoesNotFitTogetherIsNamed) {
  const auto without = [](Variables variables, const char* name) {
    variables.erase(name);
    return variables;
  };
  std::vector<Bad> cases;
  const auto add = [&](const char* what, const Variables& variables, const RankFlags& flags,
                       const std::vector<const char*>& says) {
    cases.push_back({what, variables, flags, says});
  };
  add("rank past the end", kTorchrun + Variables{{"RANK", "8"}}, {}, {"RANK=8", "WORLD_SIZE=8", "0 to 7"});
  add("no number", kTorchrun + Variables{{"WORLD_SIZE", "eight"}}, {}, {"WORLD_SIZE", "'eight'"});
  add("negative", kTorchrun + Variables{{"RANK", "-1"}}, {}, {"RANK", "'-1'"});
  add("half a number", kOpenMpi + Variables{{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4x"}}, {},
      {"OMPI_COMM_WORLD_SIZE", "'4x'"});
  add("more than a number can be", kTorchrun + Variables{{"WORLD_SIZE", "99999999999999999999"}}, {}, {"WORLD_SIZE"});
  add("too many", kTorchrun + Variables{{"WORLD_SIZE", "2000000"}}, {}, {"WORLD_SIZE", "2000000"});
  add("no world", without(kTorchrun, "WORLD_SIZE"), {}, {"RANK is 5", "WORLD_SIZE is not given"});
  add("no rank", without(kTorchrun, "RANK"), {}, {"WORLD_SIZE is 8", "RANK is not given"});
  add("no address", without(kTorchrun, "MASTER_ADDR"), {}, {"where is rank 0", "MASTER_ADDR", "only MASTER_PORT"});
  add("no port", without(kTorchrun, "MASTER_PORT"), {}, {"where is rank 0", "only MASTER_ADDR"});
  add("no port that can be", kTorchrun + Variables{{"MASTER_PORT", "65536"}}, {}, {"MASTER_PORT", "65536"});
  add("no local rank on another host", without(kTorchrun, "LOCAL_RANK"), {}, {"LOCAL_RANK is not given", "GPU"});
  add("local rank past the end", kTorchrun + Variables{{"LOCAL_RANK", "4"}}, {}, {"LOCAL_RANK is 4", "0 to 3"});
  add("more here than in all", kTorchrun + Variables{{"LOCAL_WORLD_SIZE", "9"}}, {}, {"LOCAL_WORLD_SIZE is 9"});
  add("mpirun without a size", without(kOpenMpi, "OMPI_COMM_WORLD_SIZE") + Variables{{"OMPI_COMM_WORLD_RANK", "0"}}, {},
      {"OMPI_COMM_WORLD_SIZE is not given"});
  add("RANK left over under mpirun",
      kOpenMpi + Variables{{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}}, {},
      {"RANK=0 and WORLD_SIZE=1", "OMPI_COMM_WORLD_RANK=0 and OMPI_COMM_WORLD_SIZE=4", "unset"});
  add("RANK of the batch script in each of its tasks",
      kSlurmStep + Variables{{"RANK", "0"}, {"WORLD_SIZE", "5"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "3"}},
      {}, {"RANK=0 and WORLD_SIZE=5", "SLURM_PROCID=0 and SLURM_STEP_NUM_TASKS=3", "srun"});
  add("flags against mpirun", kOpenMpi + Variables{{"OMPI_COMM_WORLD_RANK", "0"}}, kFlags, {"--rank=1", "OMPI_COMM"});
  add("flags against torchrun", kTorchrun, kFlags, {"--rank=1 and --world=2", "RANK=5 and WORLD_SIZE=8"});
  add("a flag without its partner", {}, {1, {}, {}, {}, ""}, {"--rank is 1", "--world is not given"});
  add("flags past the end", {}, {2, 2, {}, {}, "localhost:4000"}, {"--rank=2", "--world=2", "0 to 1"});
  add("flags without an address", {}, {0, 2, 0, {}, ""}, {"--address HOST:PORT"});
  add("flags on another host", {}, {1, 2, {}, {}, "node1:4000"}, {"--local-rank is not given"});
  add("an address alone", {}, {{}, {}, {}, {}, "node1:4000"}, {"--address", "without --rank and --world"});
  add("an address without a port", {}, {0, 2, 0, {}, "node1"}, {"--address", "'node1'", "HOST:PORT"});
  add("an IPv6 number without brackets", {}, {0, 2, 0, {}, "::1:4000"}, {"--address", "[::1]:29500"});
  add("a port of 0", {}, {0, 2, 0, {}, "node1:0"}, {"--address"});
  for (const Bad& bad : cases) {
    SCOPED_TRACE(bad.what);
    try {
      find(bad.variables, bad.flags);
      ADD_FAILURE() << "it was taken";
    } catch (const SaidElsewhere&) {
      ADD_FAILURE() << "nobody would say it";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      for (const char* part : bad.says)
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

TEST(Discover, OnlyTheFirstProcessSpeaksOfBadVariables) {
  const Variables stale{{"RANK", "0"}, {"WORLD_SIZE", "1"}};
  EXPECT_THROW(find(kOpenMpi + stale), SaidElsewhere);
  EXPECT_THROW(find(kSlurmStep + stale), SaidElsewhere);
  EXPECT_THROW(find(kMpich + stale), SaidElsewhere);
}

}  // namespace
}  // namespace t6::dist
