#include "train/scaling.h"

#include <gtest/gtest.h>

#include "support/small_model.h"

namespace t6::train {
namespace {

constexpr double kMs = 1e-3;

// 8 ranks of one node, 4 GB of gradients over 400 GB/s: 2 x 7/8 x 10 ms.
TEST(Scaling, ExchangeWithinANodeIsAnAllReduceAtBusBandwidth) {
  const Links links{.ranks_per_node = 8, .nodes = 1, .node_bandwidth = 400e9};
  const ExchangeTime half = reduce_scatter_time(links, 4e9);
  EXPECT_DOUBLE_EQ(half.node, 8.75 * kMs);
  EXPECT_EQ(half.network, 0);
}

// 4 nodes of 8: within the nodes as before; between them each node sends 3/4 of 4 GB over 200 GB/s, both ways.
TEST(Scaling, ExchangeBetweenNodesIsAddedToThat) {
  const Links links{.ranks_per_node = 8, .nodes = 4, .node_bandwidth = 400e9, .network_bandwidth = 200e9};
  const ExchangeTime half = reduce_scatter_time(links, 4e9);
  EXPECT_DOUBLE_EQ(half.node, 8.75 * kMs);
  EXPECT_DOUBLE_EQ(half.network, 15 * kMs);
  StepWork work{.micro_steps = 2, .micro_seconds = 30 * kMs, .gradient_bytes = 4e9};
  const StepPrediction p = predict_step(links, work);
  EXPECT_DOUBLE_EQ(p.communication, 47.5 * kMs);
  EXPECT_NEAR(p.exposed, (47.5 - 0.8 * 20) * kMs, 1e-12);  // backward is 20 of the last 30 ms
  EXPECT_NEAR(p.step, (60 + 31.5) * kMs, 1e-12);
  EXPECT_NEAR(p.efficiency, 60 / 91.5, 1e-12);
  EXPECT_EQ(p.bound, Bound::network);
  work.tail_bytes = 4e9 * 0.9;
  EXPECT_EQ(predict_step(links, work).bound, Bound::tail);
}

TEST(Scaling, OneRankTakesWhatItWasMeasuredToTake) {
  for (const bool zero : {false, true}) {
    const StepWork work{.micro_steps = 3,
                        .micro_seconds = 40 * kMs,
                        .optimizer_seconds = 2 * kMs,
                        .gradient_bytes = 4e9,
                        .tail_bytes = 1e9,
                        .zero = zero};
    const StepPrediction p = predict_step({}, work);
    EXPECT_DOUBLE_EQ(p.step, 122 * kMs);
    EXPECT_EQ(p.communication, 0);
    EXPECT_EQ(p.exposed, 0);
    EXPECT_EQ(p.efficiency, 1);
    EXPECT_EQ(p.bound, Bound::compute);
  }
}

// 2 ranks: an all-reduce of 4 GB takes 10 ms, of the 1 GB tail 2.5 ms.
TEST(Scaling, TheTailIsExposedHoweverLongBackwardIs) {
  const Links links{.ranks_per_node = 2, .nodes = 1, .node_bandwidth = 400e9};
  StepWork work{.micro_seconds = 100 * kMs, .gradient_bytes = 4e9, .tail_bytes = 1e9};
  StepPrediction p = predict_step(links, work);
  EXPECT_DOUBLE_EQ(p.exposed, 2.5 * kMs);
  EXPECT_EQ(p.bound, Bound::tail);
  // More micro-steps exchange no more.
  work.micro_steps = 4;
  EXPECT_DOUBLE_EQ(predict_step(links, work).exposed, 2.5 * kMs);
  // Of 100 times the work less than a hundredth waits.
  work.micro_steps = 100;
  EXPECT_EQ(predict_step(links, work).bound, Bound::compute);
}

// The same bytes; of them the way back follows the update, which each rank makes for its half alone.
TEST(Scaling, AShardedOptimizerGathersAfterItsUpdate) {
  const Links links{.ranks_per_node = 2, .nodes = 1, .node_bandwidth = 400e9};
  const StepWork work{
      .micro_seconds = 100 * kMs, .optimizer_seconds = 8 * kMs, .gradient_bytes = 4e9, .tail_bytes = 1e9, .zero = true};
  const StepPrediction p = predict_step(links, work);
  EXPECT_DOUBLE_EQ(p.communication, 10 * kMs);
  EXPECT_DOUBLE_EQ(p.compute, 104 * kMs);
  EXPECT_DOUBLE_EQ(p.exposed, (1.25 + 5) * kMs);
  EXPECT_EQ(p.bound, Bound::gather);
}

TEST(Scaling, WhatWouldReachAGoalReachesIt) {
  const Links links{.ranks_per_node = 8, .nodes = 2, .node_bandwidth = 50e9, .network_bandwidth = 50e9};
  for (const bool zero : {false, true}) {
    StepWork work{.micro_seconds = 30 * kMs,
                  .optimizer_seconds = 1 * kMs,
                  .gradient_bytes = 4e9,
                  .tail_bytes = 1e9,
                  .zero = zero};
    const int64_t least = micro_steps_for(predict_step(links, work), work, 0.95);
    work.micro_steps = least;
    EXPECT_GE(predict_step(links, work).efficiency, 0.95);
    work.micro_steps = least - 1;
    EXPECT_LT(predict_step(links, work).efficiency, 0.95);

    work.micro_steps = 1;
    const double growth = growth_that_hides(links, work);
    EXPECT_GT(growth, 1);
    work.micro_seconds *= growth * 1.001;
    const double hidden = predict_step(links, work).exposed;
    work.micro_seconds *= 10;
    EXPECT_DOUBLE_EQ(predict_step(links, work).exposed, hidden) << "nothing more to hide";
    work.micro_seconds /= 10.2;
    EXPECT_GT(predict_step(links, work).exposed, hidden);
  }
}

TEST(Scaling, BatchesAreDividedAmongRanks) {
  const auto expect = [](int64_t global, int64_t micro, int64_t world, int64_t g, int64_t b, int64_t k) {
    const Batches got = divide_batch(global, micro, world);
    EXPECT_EQ(got.global_batch, g);
    EXPECT_EQ(got.micro_batch, b);
    EXPECT_EQ(got.micro_steps, k);
  };
  expect(480, 24, 1, 480, 24, 20);
  expect(480, 24, 4, 480, 24, 5);
  expect(480, 24, 8, 480, 20, 3);  // 60 windows a rank
  expect(480, 24, 64, 512, 8, 1);  // 7.5 a rank
  expect(5, 24, 1, 5, 5, 1);
  expect(7, 3, 1, 7, 1, 7);
}

// Whole buckets wait for the embedding, at most all of them.
TEST(Scaling, TheTailIsTheEmbeddingsBuckets) {
  const Transformer model(test::small_model_config(AttentionKind::tpa));
  const ParameterStore& store = model.parameters();
  const int64_t embedding = store.parameters().front().storage_shape().numel() * 4, all = store.storage_size() * 4;
  EXPECT_EQ(store.parameters().front().views().front().name, "transformer.wte.weight");
  EXPECT_EQ(tail_bytes(store, embedding), embedding);
  EXPECT_EQ(tail_bytes(store, embedding - 4), 2 * (embedding - 4));
  EXPECT_EQ(tail_bytes(store, embedding / 2 + 4), 2 * (embedding / 2 + 4));
  EXPECT_EQ(tail_bytes(store, 100 * all), all);
}

}  // namespace
}  // namespace t6::train
