// Ranks with a GPU each train over NCCL as one rank would: the losses, and by a tree the bits. mpirun starts them
// (ranks_driver.cpp). Label multi_gpu: on real GPUs as many ranks as there are; the emulated device counts for three.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "dist/mpi.h"
#include "dist/nccl.h"
#include "dist/ranks_run.h"
#include "support/device.h"
#include "train/train_ranks.h"

namespace t6::train {
namespace {

struct Trained {
  std::vector<double> losses, norms;
  std::string weights;  // a hash
  bool operator==(const Trained&) const = default;
};

std::vector<double> read_numbers(std::istringstream& words) {
  std::vector<double> numbers;
  for (std::string word; words >> word && word != "|";) numbers.push_back(std::strtod(word.c_str(), nullptr));
  return numbers;
}

Trained train(int world, const std::vector<std::string>& options) {
  std::vector<std::string> command{T6_RANKS_DRIVER};
  command.insert(command.end(), options.begin(), options.end());
  const test::RanksOutcome outcome = test::run_ranks(world, command, {"OMP_NUM_THREADS=1"}, 120);
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_FALSE(outcome.late) << outcome.text;
  const std::string kMark = std::string("trained over ") + (world > 1 ? "nccl " : "single ");
  const std::string line = outcome.line(kMark);
  EXPECT_NE(line, "") << outcome.text;
  std::istringstream words(line.substr(std::min(line.size(), kMark.size())));
  Trained trained;
  trained.losses = read_numbers(words);
  trained.norms = read_numbers(words);
  words >> trained.weights;
  return trained;
}

constexpr size_t kSteps = 4;  // ranks_driver.cpp

// With the micro-steps as a captured graph, and without.
class MultiGpuDataParallel : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (gpu::count() < 2) GTEST_SKIP() << "needs 2 GPUs, there are " << gpu::count();
    if (!dist::has_nccl()) GTEST_SKIP() << "this build has no NCCL";
    if (!dist::has_mpi() || test::mpirun().empty()) GTEST_SKIP() << "there is no MPI to start ranks by";
    if (GetParam()) graph_ = {"graph"};
  }
  std::vector<std::string> with_graph(std::vector<std::string> options) const {
    options.insert(options.end(), graph_.begin(), graph_.end());
    return options;
  }
  static std::vector<int> worlds() { return gpu::count() < 3 ? std::vector<int>{2} : std::vector<int>{2, 3}; }

 private:
  std::vector<std::string> graph_;
};

TEST_P(MultiGpuDataParallel, LossesAreThoseOfOneRank) {
  const Trained one = train(1, with_graph({}));
  ASSERT_EQ(one.losses.size(), kSteps);
  EXPECT_LT(one.losses.back(), one.losses.front());
  for (const int world : worlds()) {
    for (const bool zero : {false, true}) {
      const Trained many = train(world, zero ? with_graph({"zero"}) : with_graph({}));
      EXPECT_LT(test::worst(many.losses, one.losses), 1e-6) << world << " ranks, zero " << zero;
      EXPECT_LT(test::worst(many.norms, one.norms), 1e-4) << world << " ranks, zero " << zero;
    }
  }
}

// What is summed in another order may be rounded to another bf16 number, one in a few hundred.
TEST_P(MultiGpuDataParallel, LossesInBf16AreThoseOfOneRank) {
  const Trained one = train(1, with_graph({"bf16"}));
  ASSERT_EQ(one.losses.size(), kSteps);
  for (const int world : worlds()) {
    const Trained plain = train(world, with_graph({"bf16"})), sharded = train(world, with_graph({"bf16", "zero"}));
    EXPECT_LT(test::worst(plain.losses, one.losses), 1e-4) << world;
    EXPECT_LT(test::worst(sharded.losses, one.losses), 1e-4) << world;
    // A sum of two has one order.
    if (world == 2) {
      EXPECT_TRUE(sharded == plain);
    }
  }
}

TEST_P(MultiGpuDataParallel, ATreeGivesTheSameBits) {
  for (const char* compute : {"f32", "bf16"}) {
    std::vector<std::string> options = with_graph({"tree"});
    if (compute == std::string("bf16")) options.emplace_back("bf16");
    const Trained one = train(1, options);
    ASSERT_EQ(one.losses.size(), kSteps);
    options.emplace_back("zero");
    EXPECT_TRUE(train(GetParam() && gpu::count() >= 4 ? 4 : 2, options) == one) << compute;
  }
}

std::string name_graph(const testing::TestParamInfo<bool>& parameter) {
  return parameter.param ? "Graph" : "NoGraph";
}
INSTANTIATE_TEST_SUITE_P(, MultiGpuDataParallel, testing::Bool(), name_graph);

}  // namespace
}  // namespace t6::train
