// When gradients leave a rank: bucket by bucket from the last one, while the backward pass still runs, and only in the
// last micro-step.
#include "train/gradient_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "support/small_model.h"
#include "train/step.h"

namespace t6::train {
namespace {

// Rank 0 of two, alone: writes down what it is asked for, and changes nothing.
class RecordingRank final : public dist::Communicator {
 public:
  struct Sent {
    int64_t begin;                  // in the flat gradient
    std::vector<double> embedding;  // its gradient at that instant
  };

  RecordingRank() : Communicator({.rank = 0, .world = 2, .local_rank = 0, .local_world = 2}) {}
  const char* name() const override { return "recording"; }

  // What is sent of this store's gradient is recorded.
  void watch(const ParameterStore& store) { store_ = &store; }

  void all_reduce(const Tensor& x) override { record(x); }
  void reduce_scatter(const Tensor& x) override { record(x); }
  void all_gather(const Tensor&) override {}
  void broadcast(const Tensor&, int) override {}
  void exchange(int, const Tensor&, const Tensor&) override {}
  void send(int, const Tensor&) override {}
  void receive(int, const Tensor&) override {}
  void wait() override { ++waits; }
  std::vector<Sent> sent;
  int waits = 0;

 private:
  std::vector<std::string> gather_text(std::string_view text) override {
    return {std::string(text), std::string(text)};
  }

  void record(const Tensor& x) {
    if (x.dtype() != store_->gradient().dtype()) return;  // of sums in f64
    const auto* begin = static_cast<const float*>(store_->gradient().raw());
    const Parameter& embedding = store_->parameters().front();
    sent.push_back({static_cast<const float*>(x.raw()) - begin,
                    store_->gradient().slice(embedding.offset(), {embedding.storage_shape().numel()}).to_doubles()});
  }
  const ParameterStore* store_ = nullptr;
};

class GradientExchange : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr int64_t kMicroSteps = 3;

  GradientExchange() : model_(config()) {
    model_.allocate(DType::f32, kCpu, Partition::granularity(2));
    test::fill_random(model_, 5);
    ranks_.watch(model_.parameters());
  }
  static ModelConfig config() {
    ModelConfig config = test::small_model_config(AttentionKind::tpa);
    config.width = 80;
    config.layers = 4;
    return config;
  }
  DataParallel parallel(Reduction reduction = Reduction::fast) {
    return {.communicator = &ranks_,
            .partition = Partition(model_.parameters().storage_size(), 2, 1),
            .reduction = reduction,
            .zero = GetParam()};
  }
  // One step; returns how much had been sent when each micro-batch was asked for.
  std::vector<size_t> step(const DataParallel& parallel) {
    AdamW optimizer(model_.parameters(), OptimizerSection{}, parallel.updated());
    TrainingStep step(model_, optimizer, {.micro_steps = kMicroSteps}, parallel);
    std::vector<size_t> before;
    step.run(1, 1e-3, [&] {
      before.push_back(ranks_.sent.size());
      const auto stream = static_cast<uint64_t>(before.size());
      return MicroBatch{test::random_tokens(2, 9, 37, stream), test::random_tokens(2, 9, 37, stream + 50)};
    });
    step.finish();
    return before;
  }

  Transformer model_;
  RecordingRank ranks_;
};

TEST_P(GradientExchange, SendsEachBucketOnceFromTheLastInTheLastMicroStepAlone) {
  const DataParallel parallel = this->parallel();
  const std::vector<Span>& buckets = parallel.partition.buckets();
  ASSERT_GT(buckets.size(), 4u);
  EXPECT_EQ(step(parallel), std::vector<size_t>(kMicroSteps, 0)) << "sent before the last micro-step";
  std::vector<int64_t> sent, expected;
  for (const auto& each : ranks_.sent) sent.push_back(each.begin);
  for (const Span& bucket : buckets) expected.push_back(bucket.begin);
  std::reverse(expected.begin(), expected.end());
  EXPECT_EQ(sent, expected);
}

// The embedding, first in the buffer, is complete when the backward pass ends: what was sent while it was not yet was
// sent beside that pass.
TEST_P(GradientExchange, AllButTheEmbeddingLeaveBeforeBackwardEnds) {
  const DataParallel parallel = this->parallel();
  step(parallel);
  const Parameter& embedding = model_.parameters().parameters().front();
  const int64_t end = embedding.offset() + embedding.storage_shape().numel();
  const std::vector<double>& complete = ranks_.sent.back().embedding;
  int beside = 0;
  for (const auto& sent : ranks_.sent) {
    EXPECT_EQ(sent.embedding == complete, sent.begin < end) << "bucket at " << sent.begin;
    beside += sent.begin >= end ? 1 : 0;
  }
  EXPECT_GT(beside, 2);
}

// Control: sent after the pass, as a tree is, every bucket would have found the embedding complete.
TEST_P(GradientExchange, ControlWhatIsSentAfterBackwardShowsIt) {
  const DataParallel parallel = this->parallel();
  train::GradientExchange exchange(model_.parameters(), parallel);
  const Variable loss = model_.loss(test::random_tokens(2, 9, 37), test::random_tokens(2, 9, 37, 50), 1.0);
  backward(loss);
  EXPECT_TRUE(ranks_.sent.empty());
  exchange.begin();
  exchange.finish();
  ASSERT_EQ(ranks_.sent.size(), parallel.partition.buckets().size());
  for (const auto& sent : ranks_.sent) EXPECT_EQ(sent.embedding, ranks_.sent.back().embedding);
}

INSTANTIATE_TEST_SUITE_P(Optimizer, GradientExchange, ::testing::Bool(),
                         [](const auto& chosen) { return chosen.param ? "Sharded" : "Whole"; });

}  // namespace
}  // namespace t6::train
