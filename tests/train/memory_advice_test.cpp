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
  MemoryOptions options = memory_options(config_, gpu);
  options.recompute = Recompute::attention;
  const MemoryEstimate attention = estimate_memory(model_, options);
  EXPECT_EQ(attention.workspace, kMatmulWorkspaceBytes);
  EXPECT_GT(attention.beside, 0);
  EXPECT_TRUE(what_would_fit(model_, config_, gpu, attention.on_device()).starts_with("train.recompute=attention "));
  EXPECT_FALSE(what_would_fit(model_, config_, gpu, attention.total()).starts_with("train.recompute=attention "));
}

TEST(MemoryOptions, CudnnServesBf16OnAGpu) {
  RunConfig config;
  const Device gpu{Device::Kind::cuda, 0};
  EXPECT_FALSE(memory_options(config, gpu, /*assume_cudnn=*/true).cudnn);
  config.train.precision = Precision::bf16;
  EXPECT_TRUE(memory_options(config, gpu, /*assume_cudnn=*/true).cudnn);
  EXPECT_FALSE(memory_options(config, kCpu, /*assume_cudnn=*/true).cudnn);
  EXPECT_TRUE(memory_options(config, gpu).cuda_graph);
  EXPECT_FALSE(memory_options(config, kCpu).cuda_graph);
}

}  // namespace
}  // namespace t6::train
