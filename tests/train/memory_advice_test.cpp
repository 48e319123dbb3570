#include "train/memory_advice.h"

#include <gtest/gtest.h>

#include "model/counts.h"
#include "ops/matmul.h"
#include "support/small_model.h"

namespace t6::train {
namespace {

class MemoryAdvice : public testing::Test {
 protected:
  MemoryAdvice() : model_(test::small_model_config(AttentionKind::tpa)) {
    config_.train.global_batch = 12;
    config_.train.micro_batch = 12;
    config_.checkpoint.async = false;
  }
  int64_t needs(int64_t batch, Recompute recompute) const {
    return estimate_memory(model_, {.micro_batch = batch, .recompute = recompute}).on_device();
  }

  Transformer model_;
  RunConfig config_;
};

TEST_F(MemoryAdvice, RecomputationComesBeforeSmallerBatches) {
  EXPECT_TRUE(what_would_fit(model_, config_, kCpu, needs(12, Recompute::attention))
                  .starts_with("train.recompute=attention (about "));
  EXPECT_TRUE(
      what_would_fit(model_, config_, kCpu, needs(12, Recompute::attention) - 1).starts_with("train.recompute=block "));
}

TEST_F(MemoryAdvice, QueriesKeysAndValuesAreMadeAgainFirst) {
  EXPECT_LT(needs(12, Recompute::attention), needs(12, Recompute::qkv));
  EXPECT_LT(needs(12, Recompute::qkv), needs(12, Recompute::none));
  const std::string advice = what_would_fit(model_, config_, kCpu, needs(12, Recompute::qkv));
  EXPECT_TRUE(advice.starts_with("train.recompute=qkv (about ")) << advice;
  // A kind without factors has nothing to make them of.
  const Transformer mha(test::small_model_config(AttentionKind::mha));
  EXPECT_EQ(estimate_memory(mha, {.micro_batch = 12, .recompute = Recompute::qkv}).total(),
            estimate_memory(mha, {.micro_batch = 12}).total());
}

TEST_F(MemoryAdvice, SmallerBatchesDivideTheGlobalBatch) {
  const int64_t bytes = needs(5, Recompute::none);  // 5 does not divide 12
  const std::string advice = what_would_fit(model_, config_, kCpu, std::min(bytes, needs(12, Recompute::block) - 1));
  EXPECT_TRUE(advice.starts_with("train.micro_batch=6 ") || advice.starts_with("train.micro_batch=4 ")) << advice;
}

TEST_F(MemoryAdvice, SaysWhatTheLeastNeedsWhenNothingFits) {
  const std::string advice = what_would_fit(model_, config_, kCpu, 1000);
  EXPECT_TRUE(advice.starts_with("no setting fits: train.micro_batch=1 train.recompute=block needs about ")) << advice;
}

// What no tensor holds must fit too: a GPU of exactly the tensors' size is too small.
TEST_F(MemoryAdvice, OnAGpuDriverAndWorkspaceMustFitToo) {
  const Device gpu{Device::Kind::cuda, 0};
  config_.train.cuda_graph = false;
  MemoryOptions options = memory_options(config_, gpu);
  options.recompute = Recompute::attention;
  const MemoryEstimate attention = estimate_memory(model_, options);
  EXPECT_EQ(attention.workspace, kMatmulWorkspaceBytes);
  EXPECT_GT(attention.beside, 0);
  EXPECT_TRUE(what_would_fit(model_, config_, gpu, attention.on_device()).starts_with("train.recompute=attention "));
  EXPECT_FALSE(what_would_fit(model_, config_, gpu, attention.total()).starts_with("train.recompute=attention "));
}

TEST_F(MemoryAdvice, ASaveThatTrainingWaitsForComesFirst) {
  config_.checkpoint.async = true;
  const int64_t copy = estimate_memory(model_, memory_options(config_, kCpu)).save_copy;
  EXPECT_EQ(copy, 12 * model_.parameters().count());
  EXPECT_TRUE(
      what_would_fit(model_, config_, kCpu, needs(12, Recompute::none)).starts_with("checkpoint.async=false (about "));
  EXPECT_TRUE(
      what_would_fit(model_, config_, kCpu, 1000)
          .starts_with("no setting fits: train.micro_batch=1 train.recompute=block checkpoint.async=false needs"));
  // A GPU has nothing of it.
  const Device gpu{Device::Kind::cuda, 0};
  const MemoryEstimate on_gpu = estimate_memory(model_, memory_options(config_, gpu));
  EXPECT_EQ(what_would_fit(model_, config_, gpu, on_gpu.on_device() - 1).find("async=false ("), std::string::npos);
  EXPECT_EQ(on_gpu.on_host(), copy);
}

// Smaller micro-batches are more micro-steps, whose tree holds more gradients.
TEST_F(MemoryAdvice, ATreeOfMoreMicroStepsHoldsMore) {
  config_.train.reduction = Reduction::tree;
  const auto held = [&](int64_t batch, int64_t world) {
    config_.train.micro_batch = batch;
    return estimate_memory(model_, memory_options(config_, kCpu, world)).held / model_.parameters().storage_size() / 4;
  };
  EXPECT_EQ(held(12, 1), 0);
  EXPECT_EQ(held(6, 1), 1);
  EXPECT_EQ(held(4, 1), 2);  // of 3 leaves, the left one and one of the right two
  EXPECT_EQ(held(3, 1), 2);
  EXPECT_EQ(held(2, 1), 3);
  EXPECT_EQ(held(1, 1), 4);
  EXPECT_EQ(held(1, 4), 2);
  EXPECT_EQ(held(1, 12), 0);
}

// A rank's share of the global batch is divided, and each saves its share.
TEST_F(MemoryAdvice, RanksDivideBatchAndSave) {
  config_.train.micro_batch = 6;
  config_.train.global_batch = 12;
  config_.checkpoint.async = true;
  MemoryOptions options = memory_options(config_, kCpu, 2);
  EXPECT_EQ(options.micro_steps, 1);
  EXPECT_EQ(estimate_memory(model_, options).save_copy, 6 * model_.parameters().count());
  const std::string advice =
      what_would_fit(model_, config_, kCpu, needs(4, Recompute::none), 2);  // 4 x 2 divides no 12
  EXPECT_EQ(advice.find("train.micro_batch=4"), std::string::npos) << advice;
}

// The last micro-step of several ranks does not run in the captured graph, which keeps what it needs.
TEST_F(MemoryAdvice, OnAGpuTheLastMicroStepOfManyRanksIsBesideTheGraph) {
  config_.train.micro_batch = 1;
  const Device gpu{Device::Kind::cuda, 0};
  const auto beside = [&](int64_t world) { return estimate_memory(model_, memory_options(config_, gpu, world)); };
  EXPECT_GE(beside(2).beside - beside(12).beside, beside(2).activations);
  EXPECT_GT(beside(2).beside, beside(1).beside);
  EXPECT_TRUE(
      what_would_fit(model_, config_, gpu, beside(2).on_device() - 1, 2).starts_with("train.cuda_graph=false ("));
}

TEST_F(MemoryAdvice, HostsOfGpusNeedRoomForTheCopies) {
  config_.checkpoint.async = true;
  const Device gpu{Device::Kind::cuda, 0};
  const MemoryEstimate needed = estimate_memory(model_, memory_options(config_, gpu, 8));
  const int64_t all = 8 * needed.save_copy;
  EXPECT_EQ(why_no_room(model_, config_, needed, {.bytes = all, .ranks = 8, .world = 8}), "");
  const std::string why = why_no_room(model_, config_, needed, {.bytes = all - 1, .ranks = 8, .world = 8});
  EXPECT_NE(why.find("for 8 ranks"), std::string::npos) << why;
  EXPECT_NE(why.find("checkpoint.async=false needs none"), std::string::npos) << why;
}

// What would fit is said of each of them.
TEST_F(MemoryAdvice, RanksOfAHostShareItsMemory) {
  config_.train.micro_batch = 6;
  const MemoryEstimate needed = estimate_memory(model_, memory_options(config_, kCpu, 2));
  const auto why = [&](int64_t bytes) {
    return why_no_room(model_, config_, needed, {.bytes = bytes, .ranks = 2, .world = 2});
  };
  EXPECT_EQ(why(2 * needed.total()), "");
  EXPECT_NE(why(2 * needed.total() - 1).find("for 2 ranks"), std::string::npos);
  EXPECT_NE(why(2 * needs(6, Recompute::block)).find("train.recompute=block ("), std::string::npos);
  EXPECT_EQ(why(2 * needs(6, Recompute::block) - 1).find("train.recompute=block (about"), std::string::npos);
}

TEST(MemoryOptions, CudnnServesBf16OnAGpu) {
  RunConfig config;
  const Device gpu{Device::Kind::cuda, 0};
  EXPECT_FALSE(memory_options(config, gpu, 1, /*assume_cudnn=*/true).cudnn);
  config.train.precision = Precision::bf16;
  EXPECT_TRUE(memory_options(config, gpu, 1, /*assume_cudnn=*/true).cudnn);
  EXPECT_FALSE(memory_options(config, kCpu, 1, /*assume_cudnn=*/true).cudnn);
  EXPECT_TRUE(memory_options(config, gpu).cuda_graph);
  EXPECT_FALSE(memory_options(config, kCpu).cuda_graph);
}

}  // namespace
}  // namespace t6::train
