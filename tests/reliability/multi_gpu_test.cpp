// Whole runs on a GPU for each rank, which t6 launch starts and NCCL connects, with no MPI: the losses of one rank,
// sharded checkpoints that another number of ranks goes on from, signals, a rank that dies, and launches that cannot
// work. Label multi_gpu.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dist/mpi.h"
#include "dist/nccl.h"
#include "dist/ranks_run.h"
#include "dist/wire.h"
#include "reliability/run_support.h"
#include "tensor/gpu.h"

namespace t6::test {
namespace {

class MultiGpuRuns : public RunTest {
 protected:
  void SetUp() override {
    if (gpu::count() < 2) GTEST_SKIP() << "needs 2 GPUs, there are " << gpu::count();
    if (!dist::has_nccl()) GTEST_SKIP() << "this build has no NCCL";
  }

  static std::vector<std::string> launch_words(int world, const std::string& run, const Overrides& overrides) {
    std::vector<std::string> words{"launch",
                                   "--nproc",
                                   std::to_string(world),
                                   "--",
                                   "train",
                                   "--config",
                                   "config.yaml",
                                   "run.dir=" + run,
                                   "run.device=cuda",
                                   "run.threads=1",
                                   "run.determinism=strict",
                                   "model.context=16",
                                   "train.global_batch=6",
                                   "train.micro_batch=1",
                                   "train.steps=6",
                                   "schedule.kind=constant",
                                   "schedule.warmup_steps=1",
                                   "checkpoint.every=0",
                                   "evaluation.windows=2"};
    words.insert(words.end(), overrides.begin(), overrides.end());
    return words;
  }
  pid_t start_ranks(int world, const std::string& run, const Overrides& overrides = {},
                    const Environment& environment = {}) {
    return start_program(launch_words(world, run, overrides), environment);
  }
  void train_on(int world, const std::string& run, const Overrides& overrides = {}) {
    const Outcome outcome = finish(start_ranks(world, run, overrides));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto environment = nlohmann::json::parse(data::testing::read_file(run_folder(run) / "env.json"));
    EXPECT_EQ(environment.at("ranks").at("world"), world);
    EXPECT_EQ(environment.at("ranks").at("communicator"), world > 1 ? "nccl" : "single");
  }

  // The process of this folder whose variables say that it is this rank; 0: there is none.
  pid_t process_of(int rank) const {
    const std::string wanted = "RANK=" + std::to_string(rank);
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
      if (fs::read_symlink(entry.path() / "cwd", ignored) != folder()) continue;
      std::ifstream variables(entry.path() / "environ");
      for (std::string each; std::getline(variables, each, '\0');) {
        if (each == wanted) return std::stoi(entry.path().filename().string());
      }
    }
    return 0;
  }
  // Messages of the program, not of the launcher.
  static std::vector<std::string> messages(const std::string& text) {
    std::istringstream lines(text);
    std::vector<std::string> found;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("t6: ")) found.push_back(line);
    }
    return found;
  }

  // Lines of training in the order of the log.
  std::vector<nlohmann::json> training(const std::string& run) const {
    std::istringstream lines(metrics(run));
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.at("kind") == "train") all.push_back(json);
    }
    return all;
  }
  void expect_close(const std::string& run, const std::string& reference) const {
    const std::vector<nlohmann::json> a = training(run), b = training(reference);
    ASSERT_EQ(a.size(), b.size());
    ASSERT_GT(a.size(), 5U);
    for (size_t i = 0; i < a.size(); ++i) {
      const double loss = b[i].at("loss"), norm = b[i].at("grad_norm");
      EXPECT_NEAR(a[i].at("loss"), loss, 1e-6 * loss) << "step " << i + 1;
      EXPECT_NEAR(a[i].at("grad_norm"), norm, 1e-4 * norm) << "step " << i + 1;
      EXPECT_EQ(a[i].at("data_hash"), b[i].at("data_hash")) << "step " << i + 1;
    }
  }
};

// After the first step env.json is written again, with the algorithms of products.
TEST_F(MultiGpuRuns, AFullDiskAfterTheFirstStepEndsNoRun) {
  std::vector<std::string> words = launch_words(1, "run", {});
  words.erase(words.begin(), words.begin() + 4);
  const Outcome outcome =
      finish(test::start_program(T6_DRIVER, words, folder(), {{"T6_FULL", "1-1000"}, {"T6_FULL_IN", "env.json"}}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "the algorithms of products are not recorded")) << outcome.err;
}

TEST_F(MultiGpuRuns, LossesAreThoseOfOneRank) {
  train_on(1, "one");
  train_on(2, "sharded", {"optimizer.zero=true"});
  expect_close("sharded", "one");
  expect_checkpoints_intact("sharded");
  train_on(std::min(gpu::count(), 3), "plain", {"run.check_replicas=3"});
  expect_close("plain", "one");
  expect_checkpoints_intact("plain");
}

// R12: sharded checkpoints, by a tree the same bits. In bf16 a rank holds the masters of its own part alone.
TEST_F(MultiGpuRuns, AnotherNumberOfRanksGoesOnBitForBit) {
  for (const std::string precision : {"f32", "bf16"}) {
    const Overrides tree{"train.reduction=tree", "train.precision=" + precision};
    train_on(1, "reference_" + precision, tree);
    int64_t until = 0;
    for (const int world : {2, 1, 2}) {
      Overrides part = tree;
      part.push_back("train.steps=" + std::to_string(until += 2));
      part.push_back(world == 2 ? "optimizer.zero=true" : "optimizer.zero=false");
      train_on(world, "run_" + precision, part);
    }
    EXPECT_EQ(training("run_" + precision), training("reference_" + precision));
  }
}

TEST_F(MultiGpuRuns, ASignalStopsAllAfterTheSameStep) {
  const pid_t child = start_ranks(2, "run", {"train.steps=1000000"});
  for (int i = 0; i < 1200 && last_logged("run") < 3; ++i) sleep_for(0.05);
  ::kill(child, SIGTERM);
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.code, 143) << outcome.err;
  EXPECT_EQ(newest_step("run"), last_logged("run"));
  EXPECT_GE(newest_step("run"), 3);
  expect_checkpoints_intact("run");
}

TEST_F(MultiGpuRuns, ADeadRankEndsAllWithOneMessage) {
  const pid_t child = start_ranks(2, "run", {"train.steps=1000000"});
  for (int i = 0; i < 1200 && last_logged("run") < 3; ++i) sleep_for(0.05);
  sleep_for(1.3);  // ranks say every second where they are
  const pid_t victim = process_of(1);
  ASSERT_GT(victim, 0);
  ::kill(victim, SIGKILL);
  const double struck = seconds_now();
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.code, 7) << outcome.err;
  EXPECT_LT(seconds_now() - struck, kSanitized ? 15 : 5);
  EXPECT_EQ(messages(outcome.err).size(), 1U) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "t6: rank 1 on "));
  EXPECT_TRUE(contains(outcome.err, "died, last seen at step "));
}

// ---- Bad launches: one message, of rank 0, exit 2 on all, within seconds.

class MultiGpuBadLaunch : public MultiGpuRuns {
 protected:
  // Ranks 0 and 1 as torchrun starts them, one after the other in the order given; their exit codes in the output.
  Outcome by_variables(const std::string& order, int port, const Overrides& overrides = {}) {
    std::string train;
    const std::vector<std::string> words = launch_words(2, "run", overrides);
    for (size_t i = 4; i < words.size(); ++i) train += " '" + words[i] + "'";
    std::string script =
        fmt::format("export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={}\n", port);
    for (const char rank : order) {
      script += fmt::format("RANK={0} LOCAL_RANK={0} '{1}'{2} & rank{0}=$!\n", rank, T6_PROGRAM, train);
    }
    for (const char rank : order) script += fmt::format("wait $rank{0}; echo \"rank {0}: $?\"\n", rank);
    began_ = seconds_now();
    return finish_program(test::start_program("/bin/sh", {"-c", script}, folder()), folder(), began_);
  }
  void expect_refused(const Outcome& outcome, const std::vector<std::string>& parts) const {
    EXPECT_LT(seconds_now() - began_, 15);
    const std::vector<std::string> said = messages(outcome.err);
    ASSERT_EQ(said.size(), 1U) << outcome.err;
    for (const std::string& part : parts) EXPECT_TRUE(contains(said.front(), part)) << part << " in " << outcome.err;
    EXPECT_FALSE(fs::exists(run_folder("run")));
  }
  Outcome launch(int world, const Environment& environment) {
    began_ = seconds_now();
    return finish(start_ranks(world, "run", {"train.global_batch=" + std::to_string(world)}, environment));
  }
  double began_ = 0;
};

TEST_F(MultiGpuBadLaunch, TwoRanksOnOneGpu) {
  const Outcome outcome = launch(2, {{"T6_EMULATED_GPUS", "1"}, {"CUDA_VISIBLE_DEVICES", "0"}});
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  expect_refused(outcome, {"ranks 0 and 1 on ", "use the same GPU (GPU-", "LOCAL_RANK"});
}

TEST_F(MultiGpuBadLaunch, MoreRanksThanGpus) {
  const int gpus = gpu::count();
  const Outcome outcome = launch(gpus + 1, {});
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  expect_refused(outcome, {fmt::format("rank {} on ", gpus), fmt::format("as local rank {}", gpus),
                           fmt::format("{} can be used", gpus)});
}

// As where mpirun starts ranks on a host without a GPU.
TEST_F(MultiGpuBadLaunch, SomeRanksOnCpus) {
  if (!dist::has_mpi() || mpirun().empty()) GTEST_SKIP() << "there is no MPI to start ranks by";
  std::vector<std::string> train = launch_words(2, "run", {"run.device=auto"});
  train.erase(train.begin(), train.begin() + 4);
  std::vector<std::string> words{"--oversubscribe", "--bind-to", "none", "--allow-run-as-root", "--quiet"};
  for (const bool gpu : {true, false}) {
    if (!gpu) words.emplace_back(":");
    words.insert(words.end(), {"-n", "1"});
    if (!gpu) words.insert(words.end(), {"env", "T6_EMULATED_GPUS=0", "CUDA_VISIBLE_DEVICES="});
    words.emplace_back(T6_PROGRAM);
    words.insert(words.end(), train.begin(), train.end());
  }
  began_ = seconds_now();
  const Outcome outcome = finish_program(test::start_program(mpirun().c_str(), words, folder()), folder(), began_);
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  expect_refused(outcome, {"rank 1 on ", "another kind of device than rank 0", "\"the CPU\" and not \"a GPU\""});
}

TEST_F(MultiGpuBadLaunch, APortInUseByAnotherProgram) {
  const dist::Socket taken = dist::listen_at({"127.0.0.1", 0});
  const Outcome outcome = by_variables("10", taken.port());
  EXPECT_EQ(outcome.out, "rank 1: 2\nrank 0: 2\n") << outcome.err;
  expect_refused(outcome, {fmt::format("port {} of this host", taken.port()), "is in use", "MASTER_PORT"});
}

// Rank 0 of another run, which waits for its rank 1.
TEST_F(MultiGpuBadLaunch, APortInUseByAnotherRun) {
  const int port = dist::listen_at({"127.0.0.1", 0}).port();
  data::testing::TempFolder elsewhere;
  const Environment first{{"RANK", "0"},
                          {"WORLD_SIZE", "2"},
                          {"LOCAL_RANK", "0"},
                          {"LOCAL_WORLD_SIZE", "2"},
                          {"MASTER_ADDR", "127.0.0.1"},
                          {"MASTER_PORT", std::to_string(port)},
                          {"T6_RUN_NONCE", "another"}};
  std::vector<std::string> words = launch_words(2, "other", {});
  words.erase(words.begin(), words.begin() + 4);
  words[2] = (folder() / "config.yaml").string();
  const pid_t other = test::start_program(T6_PROGRAM, words, elsewhere.path(), first);
  // It listens once others are told more than that nobody does.
  std::string why;
  for (int i = 0; i < 1200 && !dist::connect_to({"127.0.0.1", port}, 1, why).open(); ++i) sleep_for(0.05);
  const Outcome outcome = by_variables("10", port);
  ::kill(other, SIGKILL);
  finish_program(other, elsewhere.path(), began_);
  EXPECT_EQ(outcome.out, "rank 1: 2\nrank 0: 2\n") << outcome.err;
  expect_refused(outcome, {fmt::format("port {} of this host", port), "is in use", "another run"});
}

}  // namespace
}  // namespace t6::test
