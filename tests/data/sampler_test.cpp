#include "data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "shard_files.h"

namespace t6::data {
namespace {

using testing::contains;
using testing::error_of;

// The first `steps` global batches as the ranks of a world see them, put together in rank and micro-step order.
std::vector<Window> global_order(const Sampler& sampler, BatchPlan plan, uint64_t steps) {
  plan.check();
  std::vector<Window> all;
  for (uint64_t step = 0; step < steps; ++step) {
    for (plan.rank = 0; plan.rank < plan.world; ++plan.rank) {
      for (uint64_t micro = 0; micro < plan.micro_steps(); ++micro) {
        const std::vector<Window> part = sampler.micro_batch(plan, step, micro);
        all.insert(all.end(), part.begin(), part.end());
      }
    }
  }
  return all;
}

TEST(Permutation, IsABijectionForEverySize) {
  for (uint64_t n : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 63, 64, 65, 100, 255, 257, 1000, 4097}) {
    for (uint64_t epoch = 0; epoch < 3; ++epoch) {
      const Permutation permutation(n, 42, epoch);
      std::vector<bool> seen(n);
      for (uint64_t i = 0; i < n; ++i) {
        const uint64_t p = permutation(i);
        ASSERT_LT(p, n);
        ASSERT_FALSE(seen[p]) << "n " << n << ": " << p << " twice";
        seen[p] = true;
      }
    }
  }
}

TEST(Permutation, HandlesTheLargestSizes) {
  const uint64_t n = ~uint64_t{0} - 5;
  const Permutation permutation(n, 1, 2);
  std::set<uint64_t> values;
  for (uint64_t i = 0; i < 1000; ++i) values.insert(permutation(n - 1 - i));
  EXPECT_EQ(values.size(), 1000u);
  EXPECT_LT(*values.rbegin(), n);
}

// Each of the 24 orders of 4 things, and each image of a point among 10, should come up equally often over epochs.
TEST(Permutation, IsNearlyUniform) {
  std::map<std::vector<uint64_t>, int> orders;
  constexpr int kEpochs = 24000;
  std::vector<std::vector<int>> image(10, std::vector<int>(10));
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const Permutation four(4, 7, epoch), ten(10, 7, epoch);
    orders[{four(0), four(1), four(2), four(3)}]++;
    for (uint64_t i = 0; i < 10; ++i) image[i][ten(i)]++;
  }
  EXPECT_EQ(orders.size(), 24u);
  for (const auto& [order, count] : orders) EXPECT_NEAR(count, 1000, 200);
  for (const auto& row : image) {
    for (int count : row) EXPECT_NEAR(count, 2400, 300);
  }
}

TEST(Permutation, LeavesNoRunsOfNeighbours) {
  const uint64_t n = 100000;
  const Permutation permutation(n, 3, 0);
  int neighbours = 0;
  double distance = 0;
  for (uint64_t i = 0; i + 1 < n; ++i) {
    const auto step = static_cast<int64_t>(permutation(i + 1)) - static_cast<int64_t>(permutation(i));
    neighbours += step == 1 || step == -1;
    distance += std::abs(static_cast<double>(step));
  }
  EXPECT_LT(neighbours, 20);  // 2 expected
  EXPECT_NEAR(distance / static_cast<double>(n - 1), n / 3.0, n * 0.01);
}

TEST(Sampler, WindowsCoverEveryTargetOnce) {
  // 21 tokens hold five windows of 4 + 1, 20 hold four, 4 none.
  const Sampler sampler(SampleOrder::shuffled, 1, 4, {21, 4, 20, 5});
  ASSERT_EQ(sampler.windows_per_epoch(), 5u + 0 + 4 + 1);
  std::map<std::pair<uint32_t, uint64_t>, int> targets;
  for (uint64_t i = 0; i < sampler.windows_per_epoch(); ++i) {
    const Window window = sampler.window_at(i);
    for (uint64_t t = 1; t <= 4; ++t) targets[{window.shard, window.offset + t}]++;
  }
  EXPECT_EQ(targets.size(), 40u);
  for (const auto& [where, times] : targets) EXPECT_EQ(times, 1);
  EXPECT_EQ(sampler.window_at(4), (Window{0, 16}));  // its last target is token 20, the shard's last
  EXPECT_EQ(sampler.window_at(5), (Window{2, 0}));
  EXPECT_EQ(sampler.window_at(9), (Window{3, 0}));
}

TEST(Sampler, EveryWindowOnceAnEpochEvenWhenBatchesStraddleEpochs) {
  const Sampler sampler(SampleOrder::shuffled, 11, 8, {1000, 333, 5000});
  const uint64_t n = sampler.windows_per_epoch();
  const BatchPlan plan{.global_batch = 12, .micro_batch = 3, .rank = 0, .world = 2};
  ASSERT_NE(n % plan.global_batch, 0u);
  const std::vector<Window> order = global_order(sampler, plan, 3 * n / plan.global_batch + 1);
  std::vector<std::vector<Window>> epochs;
  for (int epoch = 0; epoch < 3; ++epoch) {
    const auto begin = order.begin() + static_cast<ptrdiff_t>(epoch * n);
    EXPECT_EQ(std::set<Window>(begin, begin + static_cast<ptrdiff_t>(n)).size(), n) << "epoch " << epoch;
    epochs.emplace_back(begin, begin + static_cast<ptrdiff_t>(n));
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(Sampler, ShuffledOrderIsTheSameForAnyWorldAndMicroBatch) {
  const Sampler sampler(SampleOrder::shuffled, 5, 16, {4000, 9000});
  const std::vector<Window> one = global_order(sampler, {.global_batch = 72, .micro_batch = 24}, 40);
  for (uint32_t world : {1, 2, 3, 4, 6, 8}) {
    for (uint64_t micro : {1, 3}) {
      EXPECT_TRUE(global_order(sampler, {.global_batch = 72, .micro_batch = micro, .rank = 0, .world = world}, 40) ==
                  one)
          << world << " ranks, micro-batch " << micro;
    }
  }
}

TEST(Sampler, RandomWindowOrderIsTheSameForAnyWorld) {
  const Sampler sampler(SampleOrder::random_window, 5, 16, {4000, 9000, 17});
  const std::vector<Window> one = global_order(sampler, {.global_batch = 24, .micro_batch = 3}, 40);
  for (uint32_t world : {2, 4, 8}) {
    EXPECT_TRUE(global_order(sampler, {.global_batch = 24, .micro_batch = 3, .rank = 0, .world = world}, 40) == one);
  }
}

TEST(Sampler, IsPureAndDependsOnTheSeed) {
  for (SampleOrder order : {SampleOrder::shuffled, SampleOrder::random_window}) {
    const BatchPlan plan{.global_batch = 8, .micro_batch = 2};
    const std::vector<uint64_t> shards{1000, 2000};
    const Sampler a(order, 1, 4, shards), b(order, 1, 4, shards), other(order, 2, 4, shards);
    // Asked in another sequence, the answers are the same.
    const std::vector<Window> late = b.micro_batch(plan, 1000, 3);
    b.micro_batch(plan, 3, 0);
    EXPECT_EQ(a.micro_batch(plan, 1000, 3), late);
    EXPECT_EQ(global_order(a, plan, 10), global_order(b, plan, 10));
    EXPECT_NE(global_order(a, plan, 10), global_order(other, plan, 10));
    EXPECT_NE(a.micro_batch(plan, 0, 0), a.micro_batch(plan, 1, 0));
  }
}

TEST(Sampler, RandomWindowDrawsOneShardAMicroBatchAndUniformStarts) {
  // Shard 1 is too short for a window of 10 + 1 tokens; shard 3 holds exactly one start.
  const Sampler sampler(SampleOrder::random_window, 9, 10, {30, 10, 1000, 11});
  const BatchPlan plan{.global_batch = 4, .micro_batch = 2};
  std::map<uint32_t, int> shards;
  std::map<uint64_t, int> starts;
  bool rows_differ = false;
  for (uint64_t step = 0; step < 6000; ++step) {
    for (uint64_t micro = 0; micro < 2; ++micro) {
      const std::vector<Window> rows = sampler.micro_batch(plan, step, micro);
      ASSERT_EQ(rows[0].shard, rows[1].shard);
      rows_differ |= rows[0].offset != rows[1].offset;
      shards[rows[0].shard]++;
      if (rows[0].shard == 0) starts[rows[0].offset]++;
    }
  }
  EXPECT_TRUE(rows_differ);
  ASSERT_EQ(shards.size(), 3u);
  for (const auto& [shard, count] : shards) EXPECT_NEAR(count, 4000, 300) << "shard " << shard;
  EXPECT_EQ(starts.size(), 20u);  // 0 ... 19: the last window ends with the last token
  EXPECT_EQ(starts.rbegin()->first, 19u);
  for (const auto& [start, count] : starts) EXPECT_NEAR(count, 200, 80) << "start " << start;
}

TEST(Sampler, TooShortShardsAreADataError) {
  const Error error = error_of([] { Sampler(SampleOrder::shuffled, 1, 1024, {1024, 3}); });
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "1025")) << error.what();
  EXPECT_TRUE(contains(error.what(), "1024")) << error.what();
  EXPECT_EQ(Sampler(SampleOrder::shuffled, 1, 1024, {1025}).windows_per_epoch(), 1u);
}

TEST(BatchPlan, RejectsWhatDoesNotDivide) {
  EXPECT_EQ(error_of([] { BatchPlan{.global_batch = 10, .micro_batch = 3}.check(); }).code(), ExitCode::usage);
  EXPECT_EQ(error_of([] { BatchPlan{.global_batch = 8, .micro_batch = 4, .rank = 0, .world = 4}.check(); }).code(),
            ExitCode::usage);
  EXPECT_EQ(error_of([] { BatchPlan{.global_batch = 8, .micro_batch = 0}.check(); }).code(), ExitCode::usage);
  EXPECT_EQ(error_of([] { BatchPlan{.global_batch = 8, .micro_batch = 1, .rank = 2, .world = 2}.check(); }).code(),
            ExitCode::usage);
  BatchPlan{.global_batch = 8, .micro_batch = 2, .rank = 1, .world = 2}.check();
}

TEST(FixedValidationWindows, AreEvenlySpacedAndAlwaysTheSame) {
  const std::vector<Window> windows = fixed_validation_windows({401, 401}, 4, 10);  // of 200 windows
  ASSERT_EQ(windows.size(), 10u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(windows[i], (Window{i < 5 ? 0u : 1u, (i % 5) * 20 * 4}));
  EXPECT_EQ(fixed_validation_windows({401, 401}, 4, 10), windows);
  EXPECT_EQ(fixed_validation_windows({41}, 4, 100).size(), 10u);
  EXPECT_EQ(error_of([] { fixed_validation_windows({4}, 4, 1); }).code(), ExitCode::data);
}

}  // namespace
}  // namespace t6::data
