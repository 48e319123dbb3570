// One optimizer step on the device under test, and what is not applied.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>

#include "base/error.h"
#include "support/device.h"
#include "support/small_model.h"
#include "train/step.h"

// Of tests/cuda_emulation, where that is the device.
extern "C" int t6_emulated_host_waits() __attribute__((weak));

namespace t6::train {
namespace {

struct Trial {
  explicit Trial(AttentionKind kind, Device device, const StepOptions& options, DType compute = DType::f32)
      : model(test::small_model_config(kind)) {
    test::allocate_random(model, compute, 5, device);
    optimizer.emplace(model.parameters(), OptimizerSection{});
    step.emplace(model, *optimizer, options);
  }
  void run(int64_t number) {
    step->run(number, 1e-2, [&] {
      stream += 2;
      return MicroBatch{test::random_tokens(2, 9, 37, stream), test::random_tokens(2, 9, 37, stream + 1)};
    });
  }
  std::vector<double> losses(int64_t count) {
    std::vector<double> all;
    for (int64_t i = 1; i <= count; ++i) {
      run(i);
      all.push_back(step->finish().loss);
    }
    return all;
  }

  Transformer model;
  std::optional<AdamW> optimizer;
  std::optional<TrainingStep> step;
  uint64_t stream = 100;
};

class TrainingStepOfKind : public testing::TestWithParam<AttentionKind> {
 protected:
  std::vector<double> losses(Device device, int64_t count, const StepOptions& options, DType compute = DType::f32) {
    return Trial(GetParam(), device, options, compute).losses(count);
  }
};

TEST_P(TrainingStepOfKind, LossesAreThoseOfTheCpu) {
  const StepOptions options{.micro_steps = 2};
  const std::vector<double> expected = losses(kCpu, 6, options);
  const std::vector<double> f32 = losses(test::test_device(), 6, options);
  const std::vector<double> bf16 = losses(test::test_device(), 6, options, DType::bf16);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(f32[i], expected[i], 1e-4 * expected[i]) << "step " << i + 1;
    EXPECT_NEAR(bf16[i], expected[i], 2e-2 * expected[i]) << "step " << i + 1;
  }
}

TEST_P(TrainingStepOfKind, RecomputationChangesNoLoss) {
  const std::vector<double> expected = losses(test::test_device(), 3, {});
  EXPECT_EQ(losses(test::test_device(), 3, {.recompute = Recompute::qkv}), expected);
  EXPECT_EQ(losses(test::test_device(), 3, {.recompute = Recompute::attention}), expected);
  EXPECT_EQ(losses(test::test_device(), 3, {.recompute = Recompute::block}), expected);
}

TEST_P(TrainingStepOfKind, AGraphChangesNoLoss) {
  const std::vector<double> expected = losses(test::test_device(), 4, {.micro_steps = 2});
  EXPECT_EQ(losses(test::test_device(), 4, {.micro_steps = 2, .cuda_graph = true}), expected);
}

INSTANTIATE_TEST_SUITE_P(EveryKind, TrainingStepOfKind, testing::ValuesIn(kAttentionKinds),
                         [](const auto& p) { return std::string(kAttentionKindNames[static_cast<size_t>(p.param)]); });

// Something to learn: each id mostly decides the next.
MicroBatch predictable_batch(int64_t step) {
  const Philox rng(11, RngPurpose::test, static_cast<uint64_t>(step));
  const Shape shape{4, 16};
  std::vector<int32_t> tokens, targets;
  for (int64_t row = 0; row < shape[0]; ++row) {
    auto id = static_cast<int32_t>(rng.below(tokens.size(), 37));
    for (int64_t t = 0; t < shape[1]; ++t) {
      tokens.push_back(id);
      const auto noise = static_cast<int32_t>(rng.below(1000 + tokens.size(), 3));
      id = (5 * id + noise) % 37;
      targets.push_back(id);
    }
  }
  return {Tensor::from<int32_t>(shape, tokens), Tensor::from<int32_t>(shape, targets)};
}

// Initial weights as in training, a warm-up, 200 steps.
std::vector<double> curve(Device device, DType compute) {
  ModelConfig config = test::small_model_config(AttentionKind::tpa);
  config.width = 32;
  Transformer model(config);
  model.allocate(compute, device);
  model.parameters().initialise(1);
  AdamW optimizer(model.parameters(), OptimizerSection{});
  TrainingStep step(model, optimizer, {.cuda_graph = true});
  std::vector<double> losses;
  for (int64_t i = 1; i <= 200; ++i) {
    step.run(i, 3e-3 * std::min(1.0, static_cast<double>(i) / 20), [&] { return predictable_batch(i); });
    losses.push_back(step.finish().loss);
  }
  return losses;
}

double mean_of(const std::vector<double>& losses, size_t begin, size_t count) {
  double sum = 0;
  for (size_t i = begin; i < begin + count; ++i) sum += losses[i];
  return sum / static_cast<double>(count);
}

TEST(TrainingStep, CurvesOfTwoHundredStepsAgree) {
  const std::vector<double> expected = curve(kCpu, DType::f32);
  const std::vector<double> f32 = curve(test::test_device(), DType::f32);
  const std::vector<double> bf16 = curve(test::test_device(), DType::bf16);
  EXPECT_LT(mean_of(expected, 180, 20), 0.6 * mean_of(expected, 0, 20));  // it learns
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(f32[i], expected[i], 1e-3 * expected[i]) << "step " << i + 1;
  for (size_t at = 0; at < 200; at += 20) {
    EXPECT_NEAR(mean_of(bf16, at, 20), mean_of(expected, at, 20), 1e-2 * mean_of(expected, at, 20))
        << "from step " << at;
  }
}

TEST(TrainingStep, ResultsMayBeFetchedOneStepLate) {
  const std::vector<double> expected = Trial(AttentionKind::tpa, test::test_device(), {}).losses(4);
  Trial late(AttentionKind::tpa, test::test_device(), {});
  std::vector<double> losses;
  for (int64_t i = 1; i <= 4; ++i) {
    late.run(i);
    if (i > 1) losses.push_back(late.step->finish().loss);
  }
  EXPECT_EQ(late.step->unfinished(), 1);
  losses.push_back(late.step->finish().loss);
  EXPECT_EQ(losses, expected);
}

// From the third step on the host waits, and asks for page-locked memory, for nothing but the buffer of the micro-batch
// before the last.
TEST(TrainingStep, TheHostDoesNotWaitForAGpu) {
  if (test::test_device().is_cpu() || t6_emulated_host_waits == nullptr)
    GTEST_SKIP() << "waits are counted on the emulated device alone";
  for (const bool cuda_graph : {false, true}) {
    for (const DType compute : {DType::f32, DType::bf16}) {
      Trial trial(AttentionKind::tpa, test::test_device(), {.micro_steps = 2, .cuda_graph = cuda_graph}, compute);
      for (int64_t i = 1; i <= 5; ++i) {
        const int before = t6_emulated_host_waits();
        trial.run(i);
        if (i >= 3) {
          EXPECT_EQ(t6_emulated_host_waits() - before, 2) << "step " << i;
        }
        if (i > 1) trial.step->finish();
      }
    }
  }
}

// An infinite weight makes the loss of step 3 NaN. Step 4, which a GPU begins before the host knows, changes nothing
// either.
TEST(TrainingStep, ANonFiniteStepAndThoseAfterItAreNotApplied) {
  Trial run(AttentionKind::tpa, test::test_device(), {});
  run.losses(2);
  const Tensor weights = run.model.parameters().master();
  const Tensor before = weights.clone();
  const std::vector<double> moment = run.optimizer->second_moment().to_doubles();
  weights.fill(std::numeric_limits<double>::infinity());
  run.run(3);
  weights.copy_from(before);
  run.run(4);
  EXPECT_FALSE(std::isfinite(run.step->finish().clip));
  EXPECT_FALSE(std::isfinite(run.step->finish().clip));
  EXPECT_EQ(weights.to_doubles(), before.to_doubles());
  EXPECT_EQ(run.optimizer->second_moment().to_doubles(), moment);
}

TEST(TrainingStep, RefusesIdsOutsideTheVocabulary) {
  Trial run(AttentionKind::tpa, test::test_device(), {});
  const MicroBatch batch{test::random_tokens(2, 9, 37), test::random_tokens(2, 9, 37)};
  batch.targets.data<int32_t>()[5] = 37;
  EXPECT_THROW(run.step->run(1, 1e-2, [&] { return batch; }), Error);
}

}  // namespace
}  // namespace t6::train
