// Many ranks do what one rank does: the same losses and weights, with and without a sharded optimizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/error.h"
#include "support/promise.h"
#include "support/small_model.h"
#include "support/thread_ranks.h"
#include "train/replicas.h"
#include "train/step.h"
#include "train/train_ranks.h"

namespace t6::train {
namespace {

using Outcome = test::TrainedRank;
using test::batch_of;
using test::Shares;
using test::worst;

TEST(Partition, CoversEverythingOnce) {
  for (const int world : {1, 2, 3, 4, 7}) {
    const int64_t size = padded(1'000'000, Partition::granularity(world));
    const Partition partition(size, world, 1 << 18);
    std::vector<int> owners(static_cast<size_t>(size), 0);
    for (int rank = 0; rank < world; ++rank) {
      for (const Span& span : partition.owned(rank)) {
        for (int64_t i = span.begin; i < span.end(); ++i) ++owners[static_cast<size_t>(i)];
        EXPECT_EQ(span.begin % (world == 1 ? 1 : kSquaresBlock), 0);
      }
    }
    EXPECT_EQ(std::count(owners.begin(), owners.end(), 1), size) << world;
    int64_t at = 0;
    for (const Span& bucket : partition.buckets()) {
      EXPECT_EQ(bucket.begin, at);
      at = bucket.end();
    }
    EXPECT_EQ(at, size);
    EXPECT_GT(partition.buckets().size(), world == 1 ? 0u : 2u);
  }
}

// Of rank 0; all ranks must have the same.
Outcome train(const Shares& shares, int64_t steps = 50) {
  std::vector<Outcome> outcomes(static_cast<size_t>(shares.world));
  test::on_ranks(shares.world, [&](std::shared_ptr<dist::Communicator> communicator) {
    const auto rank = static_cast<size_t>(communicator->rank());
    outcomes[rank] = test::train_rank(shares, *communicator, steps);
  });
  for (const Outcome& outcome : outcomes) EXPECT_TRUE(outcome == outcomes.front()) << "ranks differ";
  return outcomes.front();
}

// n ranks with micro-batches of b windows are one rank with micro-batches of n b.
TEST(DataParallel, LossesAreThoseOfOneRank) {
  for (const int world : {2, 3, 4}) {
    const Outcome one = train({.merged = world});
    EXPECT_LT(one.losses.back(), one.losses.front());
    for (const bool zero : {false, true}) {
      const Outcome many = train({.world = world, .zero = zero});
      EXPECT_LT(worst(many.losses, one.losses), 1e-6) << world << " ranks, zero " << zero;
      EXPECT_LT(worst(many.norms, one.norms), 1e-4) << world << " ranks, zero " << zero;
    }
  }
}

TEST(DataParallel, ATreeGivesTheSameBits) {
  const Outcome one = train({.reduction = Reduction::tree});
  for (const int world : {2, 4}) {
    for (const bool zero : {false, true}) {
      const Outcome many = train({.world = world, .zero = zero, .reduction = Reduction::tree});
      EXPECT_TRUE(many == one) << world << " ranks, zero " << zero << ", losses differ by "
                               << worst(many.losses, one.losses);
    }
  }
}

TEST(DataParallel, InBf16AShardedOptimizerChangesNoBit) {
  const Shares plain{.world = 3, .compute = DType::bf16};
  Shares sharded = plain;
  sharded.zero = true;
  EXPECT_TRUE(train(plain, 10) == train(sharded, 10));
}

// The authors' sum is over a rank's micro-batches, and the mean over ranks.
TEST(DataParallel, SummedGradientsDependOnTheStepsOfARank) {
  const Outcome mean = train({.world = 2}, 1), sum = train({.world = 2, .accumulation = Accumulation::sum}, 1);
  EXPECT_NEAR(sum.norms[0], 6 * mean.norms[0], 1e-5 * sum.norms[0]);
  EXPECT_NEAR(sum.losses[0], mean.losses[0], 1e-7 * mean.losses[0]);
}

TEST(DataParallel, EveryRankHearsEveryVote) {
  test::on_ranks(3, [](std::shared_ptr<dist::Communicator> communicator) {
    Transformer model(test::small_model_config(AttentionKind::mha));
    model.allocate(DType::f32, kCpu, Partition::granularity(3));
    test::fill_random(model, 5);
    const DataParallel parallel{.communicator = communicator.get(),
                                .partition = Partition(model.parameters().storage_size(), 3, 1 << 20)};
    AdamW optimizer(model.parameters(), OptimizerSection{}, parallel.updated());
    TrainingStep step(model, optimizer, {}, parallel);
    const int rank = communicator->rank();
    const data::TokenHash hash(UINT64_MAX - static_cast<uint64_t>(rank), 7);
    step.run(1, 1e-3, [&] { return batch_of(1, rank); },
             {.limits = {}, .vote = [&] { return Vote{.stop = 10 * rank, .saving = -rank, .consumed = hash}; }});
    const std::vector<Vote> votes = step.finish().votes;
    ASSERT_EQ(votes.size(), 3u);
    for (int r = 0; r < 3; ++r) {
      const Vote& vote = votes[static_cast<size_t>(r)];
      EXPECT_EQ(vote.stop, 10 * r);
      EXPECT_EQ(vote.saving, -r);
      EXPECT_EQ(vote.consumed, data::TokenHash(UINT64_MAX - static_cast<uint64_t>(r), 7));
    }
  });
}

// A weight that is infinite on one rank alone makes its loss NaN: no rank applies the step.
TEST(DataParallel, WhatIsNotFiniteOnOneRankIsAppliedByNone) {
  for (const bool zero : {false, true}) {
    test::on_ranks(2, [zero](std::shared_ptr<dist::Communicator> communicator) {
      Transformer model(test::small_model_config(AttentionKind::tpa));
      model.allocate(DType::f32, kCpu, Partition::granularity(2));
      test::fill_random(model, 5);
      const DataParallel parallel{.communicator = communicator.get(),
                                  .partition = Partition(model.parameters().storage_size(), 2, 1),
                                  .zero = zero};
      AdamW optimizer(model.parameters(), OptimizerSection{}, parallel.updated());
      TrainingStep step(model, optimizer, {}, parallel);
      const Tensor weights = model.parameters().master();
      const Tensor before = weights.clone();
      MicroBatch batch = batch_of(1, communicator->rank());
      step.run(1, 1e-2, [&] {
        if (communicator->rank() == 1) weights.fill(std::numeric_limits<double>::infinity());
        return batch;
      });
      if (communicator->rank() == 1) weights.copy_from(before);
      const StepResult result = step.finish();
      EXPECT_FALSE(std::isfinite(result.clip));
      if (!zero) {
        EXPECT_EQ(weights.to_doubles(), before.to_doubles());
      }
      for (const double m : optimizer.first_moment().to_doubles()) ASSERT_EQ(m, 0);
    });
  }
}

// R16: one bit of each tensor, on one rank of three.
TEST(Replicas, OneFlippedBitIsFoundAndNamed) {
  std::atomic<int> found = 0;
  test::on_ranks(3, [&](std::shared_ptr<dist::Communicator> communicator) {
    Transformer model(test::small_model_config(AttentionKind::tpa));
    model.allocate(DType::bf16, kCpu, Partition::granularity(3));
    test::fill_random(model, 5);
    const ParameterStore& store = model.parameters();
    const DataParallel parallel{.communicator = communicator.get(), .partition = Partition(store.storage_size(), 3, 1)};
    const AdamW optimizer(store, OptimizerSection{}, parallel.updated());
    EXPECT_NO_THROW(require_equal_replicas(store, optimizer, parallel, 7));
    struct Held {
      std::string prefix;
      Tensor flat;
    };
    for (const Held& held : {Held{"params/", store.compute()}, Held{"masters/", store.master()},
                             Held{"adamw/m/", optimizer.first_moment()}, Held{"adamw/v/", optimizer.second_moment()}}) {
      const auto& prefix = held.prefix;
      const auto& flat = held.flat;
      store.for_each_view([&](const Parameter& p, const ParameterView& v) {
        const Tensor storage = flat.slice(p.offset(), p.storage_shape());
        auto* byte = static_cast<unsigned char*>(storage.raw()) +
                     static_cast<size_t>(v.row * p.storage_shape()[-1]) * size_of(flat.dtype());
        if (communicator->rank() == 1) *byte ^= 1;
        try {
          require_equal_replicas(store, optimizer, parallel, 7);
          ADD_FAILURE() << "not found: " << prefix << v.name;
        } catch (const Error& error) {
          const std::string text = error.what();
          EXPECT_EQ(error.code(), ExitCode::numeric);
          EXPECT_NE(text.find(prefix + v.name + " of rank 1 differs"), std::string::npos) << text;
          EXPECT_EQ(dynamic_cast<const SaidElsewhere*>(&error) == nullptr, communicator->is_root());
          if (communicator->is_root()) ++found;
        }
        if (communicator->rank() == 1) *byte ^= 1;
      });
    }
  });
  test::measured("R16", "{0} of {0} flipped bits found and named, one in each tensor of weights, masters and moments",
                 found.load());
}

// The comparison sees what differs, not what is wrong everywhere; that is what it would miss were it broken.
TEST(Replicas, ControlTheSameFlipOnAllRanksIsNotFound) {
  test::on_ranks(2, [&](const std::shared_ptr<dist::Communicator>& communicator) {
    Transformer model(test::small_model_config(AttentionKind::tpa));
    model.allocate(DType::f32, kCpu, Partition::granularity(2));
    test::fill_random(model, 5);
    const ParameterStore& store = model.parameters();
    const DataParallel parallel{.communicator = communicator.get(), .partition = Partition(store.storage_size(), 2, 1)};
    const AdamW optimizer(store, OptimizerSection{}, parallel.updated());
    *static_cast<unsigned char*>(store.master().raw()) ^= 1;
    EXPECT_NO_THROW(require_equal_replicas(store, optimizer, parallel, 7));
    if (communicator->rank() == 1) *static_cast<unsigned char*>(store.master().raw()) ^= 1;
    EXPECT_THROW(require_equal_replicas(store, optimizer, parallel, 7), Error);
  });
}

}  // namespace
}  // namespace t6::train
