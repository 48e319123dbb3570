// R14: a loss or gradient that is not finite on one rank is applied by none, whatever the step, the rank and the
// number.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/poisoned_ranks.h"
#include "support/promise.h"
#include "support/small_model.h"
#include "support/thread_ranks.h"
#include "train/spikes.h"
#include "train/step.h"

namespace t6::train {
namespace {

constexpr int64_t kSteps = 7;

struct Point {
  int world = 2;
  bool zero = false;
  Reduction reduction = Reduction::fast;
  test::Poison poison = {};
};

// Of one step on one rank.
struct Seen {
  double loss, norm, clip;
  SpikeVerdict verdict;
  std::vector<double> state;  // weights and moments after it
};

std::vector<Seen> train_rank(const Point& point, NonFiniteAction action, dist::Communicator& communicator) {
  Transformer model(test::small_model_config(AttentionKind::tpa));
  model.allocate(DType::f32, kCpu, Partition::granularity(point.world));
  test::fill_random(model, 5);
  const DataParallel parallel{.communicator = &communicator,
                              .partition = Partition(model.parameters().storage_size(), point.world, 1),
                              .reduction = point.reduction,
                              .zero = point.zero};
  AdamW optimizer(model.parameters(), OptimizerSection{}, parallel.updated());
  SpikeDetector detector({.nonfinite = action});
  TrainingStep step(model, optimizer, {.micro_steps = 2, .skip_bad = detector.decides()}, parallel);
  std::vector<Seen> all;
  for (int64_t s = 1; s <= kSteps; ++s) {
    uint64_t stream = static_cast<uint64_t>(100 * s + 10 * communicator.rank());
    step.run(s, 1e-2, [&] {
      stream += 2;
      return MicroBatch{test::random_tokens(2, 9, 37, stream), test::random_tokens(2, 9, 37, stream + 1)};
    });
    const StepResult result = step.finish();
    std::vector<double> state;
    for (const Tensor& part : {model.parameters().compute(), optimizer.first_moment(), optimizer.second_moment()}) {
      const std::vector<double> values = part.to_doubles();
      state.insert(state.end(), values.begin(), values.end());
    }
    all.push_back({result.loss, result.grad_norm, result.clip,
                   detector.judge(s, result.loss, result.grad_norm, std::isfinite(result.clip)), std::move(state)});
  }
  return all;
}

// By rank.
std::vector<std::vector<Seen>> train(const Point& point, NonFiniteAction action) {
  std::vector<std::vector<Seen>> all(static_cast<size_t>(point.world));
  test::on_ranks(point.world, [&](const std::shared_ptr<dist::Communicator>& real) {
    test::PoisonedRank communicator(*real, {point.poison});
    all[static_cast<size_t>(real->rank())] = train_rank(point, action, communicator);
  });
  return all;
}

std::vector<Point> points() {
  std::vector<Point> all;
  for (int i = 0; i < 20; ++i) {
    Point point{.world = 2 + i % 3, .zero = i % 4 > 1};
    // A tree of threads pairs up only powers of two.
    if (i % 5 == 0 && point.world != 3) point.reduction = Reduction::tree;
    point.poison = {
        .in = i % 2 == 0 ? test::Poison::In::loss : test::Poison::In::gradient,
        .step = 1 + i % (kSteps - 1),
        .rank = (i / 3) % point.world,
        .value = i % 3 == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN()};
    all.push_back(point);
  }
  return all;
}

bool all_finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

// Which ranks changed anything by the poisoned step, and whether all came to the same verdict.
struct Judged {
  int applied_by = 0;
  bool agree = true;
};

Judged judge(const Point& point, const std::vector<std::vector<Seen>>& ranks) {
  Judged judged;
  const auto at = static_cast<size_t>(point.poison.step - 1);
  for (const std::vector<Seen>& seen : ranks) {
    const bool changed = at == 0 ? !all_finite(seen[0].state) : seen[at].state != seen[at - 1].state;
    judged.applied_by += changed ? 1 : 0;
    for (size_t s = 0; s < seen.size(); ++s) {
      const SpikeVerdict &mine = seen[s].verdict, &first = ranks.front()[s].verdict;
      judged.agree &= mine.text == first.text && mine.skipped == first.skipped && mine.ends == first.ends;
    }
  }
  return judged;
}

TEST(NonFinite, AtTwentyPointsItIsAppliedByNoRankAndAllAgree) {
  int injected = 0;
  for (const Point& point : points()) {
    for (const NonFiniteAction action : {NonFiniteAction::stop, NonFiniteAction::skip}) {
      const std::vector<std::vector<Seen>> ranks = train(point, action);
      SCOPED_TRACE(fmt::format("{} ranks, zero {}, tree {}, in {} of rank {}, step {}, {}", point.world, point.zero,
                               point.reduction == Reduction::tree,
                               point.poison.in == test::Poison::In::loss ? "loss" : "gradient", point.poison.rank,
                               point.poison.step, action == NonFiniteAction::stop ? "stop" : "skip"));
      const Judged judged = judge(point, ranks);
      EXPECT_EQ(judged.applied_by, 0);
      EXPECT_TRUE(judged.agree);
      const auto at = static_cast<size_t>(point.poison.step - 1);
      for (const std::vector<Seen>& seen : ranks) {
        const bool skip = action == NonFiniteAction::skip;
        EXPECT_FALSE(std::isfinite(seen[at].loss) && std::isfinite(seen[at].norm));
        EXPECT_EQ(seen[at].verdict.skipped, skip);
        EXPECT_EQ(seen[at].verdict.ends, !skip);
        EXPECT_NE(seen[at].verdict.text.find(fmt::format("step {}: ", at + 1)), std::string::npos);
        // The next one is applied again; under `stop` a GPU may have begun it, and it changes nothing.
        EXPECT_EQ(seen[at + 1].state == seen[at].state, !skip);
        EXPECT_EQ(std::isfinite(seen[at + 1].clip), skip);
        for (const Seen& each : seen) EXPECT_TRUE(all_finite(each.state));
        EXPECT_EQ(seen[0].verdict.spike, at == 0);
      }
      ++injected;
    }
  }
  test::measured(
      "R14",
      "a loss or gradient made NaN or infinite at {0} points (2 to 4 ranks, each with stop and skip): applied "
      "by no rank in {1} of {1} runs, the same verdict on all",
      injected / 2, injected);
}

// What only one rank sees is what the test above must find: the others apply the step, and the verdicts differ.
TEST(NonFinite, ControlARankThatDoesNotTellTheOthersIsFound) {
  const Point point{.poison = {.in = test::Poison::In::gradient, .step = 3, .rank = 1, .told = false}};
  const Judged judged = judge(point, train(point, NonFiniteAction::skip));
  EXPECT_EQ(judged.applied_by, 1);
  EXPECT_FALSE(judged.agree);
}

}  // namespace
}  // namespace t6::train
