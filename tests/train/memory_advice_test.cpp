#include "train/memory_advice.h"

#include <gtest/gtest.h>

#include "model/counts.h"
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
    return estimate_memory(model_, batch, DType::f32, recompute).total();
  }

  Transformer model_;
  RunConfig config_;
};

TEST_F(MemoryAdvice, RecomputationComesBeforeSmallerBatches) {
  EXPECT_TRUE(what_would_fit(model_, config_, needs(12, Recompute::attention))
                  .starts_with("train.recompute=attention (about "));
  EXPECT_TRUE(
      what_would_fit(model_, config_, needs(12, Recompute::attention) - 1).starts_with("train.recompute=block "));
}

TEST_F(MemoryAdvice, SmallerBatchesDivideTheGlobalBatch) {
  const int64_t bytes = needs(5, Recompute::none);  // 5 does not divide 12
  const std::string advice = what_would_fit(model_, config_, std::min(bytes, needs(12, Recompute::block) - 1));
  EXPECT_TRUE(advice.starts_with("train.micro_batch=6 ") || advice.starts_with("train.micro_batch=4 ")) << advice;
}

TEST_F(MemoryAdvice, SaysWhatTheLeastNeedsWhenNothingFits) {
  const std::string advice = what_would_fit(model_, config_, 1000);
  EXPECT_TRUE(advice.starts_with("no setting fits: train.micro_batch=1 train.recompute=block needs about ")) << advice;
}

}  // namespace
}  // namespace t6::train
