// Checkpoints of every attention kind: these tests iterate the list of kinds.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "data/shard_files.h"
#include "model/counts.h"
#include "support/small_model.h"
#include "train/step.h"
#include "train/training_state.h"

namespace t6::train {
namespace {

// A model, its optimizer and what a step does with them.
struct Training {
  Transformer model;
  std::optional<AdamW> adamw;
  std::optional<TrainingStep> training_step;

  Training(const ModelConfig& config, DType dtype, uint64_t seed) : model(config) {
    test::allocate_random(model, dtype, seed);
    adamw.emplace(model.parameters(), OptimizerSection{});
    training_step.emplace(model, *adamw, StepOptions{.micro_steps = 2});
  }

  double step(int64_t number) {
    uint64_t stream = static_cast<uint64_t>(number) * 10;
    training_step->run(number, 1e-2, [&] {
      stream += 2;
      return MicroBatch{test::random_tokens(2, 9, 37, stream), test::random_tokens(2, 9, 37, stream + 1)};
    });
    return training_step->finish().loss;
  }

  checkpoint::State state() const { return training_state(model.parameters(), *adamw); }
  // All bytes that count, padding and the copy that products read included.
  std::map<std::string, std::string> bytes() const {
    const ParameterStore& store = model.parameters();
    std::map<std::string, std::string> all;
    for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"master", store.master()},
                                       {"compute", store.compute()},
                                       {"m", adamw->first_moment()},
                                       {"v", adamw->second_moment()}}) {
      all[name].assign(static_cast<const char*>(tensor.raw()), tensor.bytes());
    }
    return all;
  }
};

class KindsCheckpoint : public testing::TestWithParam<std::tuple<AttentionKind, DType>> {
 protected:
  data::testing::TempFolder folder_;
};

TEST_P(KindsCheckpoint, ALoadedRunGoesOnWithTheSameBits) {
  const auto [kind, dtype] = GetParam();
  const ModelConfig config = test::small_model_config(kind);
  Training first(config, dtype, 5);
  for (int64_t step = 1; step <= 3; ++step) first.step(step);
  checkpoint::open_folder(folder_.path());
  checkpoint::save(folder_.path(), 3, first.state());

  Training second(config, dtype, 6);  // other weights, no moments
  EXPECT_NE(second.bytes(), first.bytes());
  const auto loaded = checkpoint::load(folder_.path(), second.state());
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->step, 3);
  second.model.parameters().refresh_compute();
  for (const auto& [name, bytes] : first.bytes()) EXPECT_TRUE(second.bytes().at(name) == bytes) << name;

  EXPECT_EQ(second.step(4), first.step(4));
  for (const auto& [name, bytes] : first.bytes()) EXPECT_TRUE(second.bytes().at(name) == bytes) << name << " a step on";
}

TEST_P(KindsCheckpoint, AModelForInferenceComputesTheSame) {
  const auto [kind, dtype] = GetParam();
  const ModelConfig config = test::small_model_config(kind);
  Training training(config, dtype, 5);
  checkpoint::open_folder(folder_.path());
  checkpoint::save(folder_.path(), 3, training.state());

  Transformer model(config);
  model.allocate_for_inference(dtype);
  ASSERT_TRUE(checkpoint::load(folder_.path(), model_state(model.parameters()), {.prefix = "params/"}));
  const Tensor tokens = test::random_tokens(2, 9, 37, 1);
  EXPECT_EQ(model.logits(tokens).to_doubles(), training.model.logits(tokens).to_doubles());
}

TEST_P(KindsCheckpoint, TensorsAreSavedWithoutPadding) {
  const auto [kind, dtype] = GetParam();
  Training training(test::small_model_config(kind), dtype, 5);
  training.step(1);
  checkpoint::open_folder(folder_.path());
  checkpoint::save(folder_.path(), 1, training.state());

  std::map<std::string, Shape> declared;
  training.model.parameters().for_each_view([&](const Parameter&, const ParameterView& v) {
    for (const char* prefix : {"params/", "adamw/m/", "adamw/v/"}) declared[prefix + v.name] = v.shape;
  });
  std::map<std::string, Shape> saved;
  int64_t parameters = 0;
  for (const checkpoint::TensorFacts& tensor : checkpoint::inspect(folder_.path()).tensors) {
    saved[tensor.name] = tensor.shape;
    EXPECT_EQ(tensor.dtype, DType::f32) << tensor.name;
    if (tensor.name.starts_with("params/")) parameters += tensor.shape.numel();
  }
  EXPECT_TRUE(saved == declared);
  EXPECT_EQ(parameters, count(training.model).parameters);
  EXPECT_GT(training.model.parameters().storage_size(), parameters) << "nothing is padded in this model";
}

INSTANTIATE_TEST_SUITE_P(Every, KindsCheckpoint,
                         testing::Combine(testing::ValuesIn(kAttentionKinds), testing::Values(DType::f32, DType::bf16)),
                         [](const auto& p) {
                           return std::string(kAttentionKindNames[static_cast<size_t>(std::get<0>(p.param))]) + "_" +
                                  std::string(name_of(std::get<1>(p.param)));
                         });

}  // namespace
}  // namespace t6::train
