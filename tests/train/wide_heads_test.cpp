// Steps of models whose heads are as wide as those of the published ones, over windows of 128: the shapes that cuDNN
// and the own tensor-core kernels take, which the small models of other tests do not reach.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "ops/attention_backend.h"
#include "support/device.h"
#include "support/small_model.h"
#include "train/device.h"
#include "train/step.h"

namespace t6::train {
namespace {

constexpr int64_t kTokens = 128, kVocabulary = 61;

// The emulated device is slow.
int64_t windows() {
  return test::on_cuda() && gpu::info(0).name != "emulated GPU" ? 4 : 1;
}

ModelConfig wide_config(AttentionKind kind) {
  ModelConfig config = test::small_model_config(kind);
  if (auto* options = std::get_if<mla::Options>(&config.attention)) *options = {48, 32, 32};  // queries 96 wide
  config.layers = windows() > 1 ? 2 : 1;
  config.width = 64;
  config.heads = 2;
  config.head_width = 64;
  config.vocab_size = kVocabulary;
  config.context = kTokens;
  return config;
}

struct Outcome {
  std::vector<double> losses, weights;
};

Outcome run(AttentionKind kind, Device device, DType compute, bool cuda_graph = false) {
  Transformer model(wide_config(kind));
  model.allocate(compute, device);
  test::fill_random(model, 5, 0.25);
  AdamW optimizer(model.parameters(), OptimizerSection{});
  TrainingStep step(model, optimizer, {.micro_steps = 2, .cuda_graph = cuda_graph});
  Outcome out;
  uint64_t stream = 100;
  for (int64_t i = 1; i <= 3; ++i) {
    step.run(i, 1e-3, [&] {
      stream += 2;
      return MicroBatch{test::random_tokens(windows(), kTokens, kVocabulary, stream),
                        test::random_tokens(windows(), kTokens, kVocabulary, stream + 1)};
    });
    out.losses.push_back(step.finish().loss);
  }
  out.weights = model.parameters().master().to_doubles();
  return out;
}

void expect_losses_of_the_cpu(AttentionKind kind, bool cuda_graph) {
  const std::vector<double> expected = run(kind, kCpu, DType::f32).losses;
  const std::vector<double> got = run(kind, test::test_device(), DType::bf16, cuda_graph).losses;
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(got[i], expected[i], 2e-2 * expected[i]) << "step " << i + 1 << (cuda_graph ? ", as a graph" : "");
  }
}

// Strict or not while it lives, on the given kernels.
class Settings {
 public:
  explicit Settings(Determinism determinism, AttentionKernels kernels = AttentionKernels::automatic)
      : before_(attention_backend()) {
    set_attention_backend({kernels, before_.deterministic});
    set_determinism(determinism);
  }
  ~Settings() {
    set_determinism(Determinism::standard);
    set_attention_backend(before_);
  }
  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;

 private:
  AttentionBackend before_;
};

class TrainingStepOfWideHeads : public testing::TestWithParam<AttentionKind> {};

TEST_P(TrainingStepOfWideHeads, StrictStepsRepeatBitForBit) {
  const Settings strict(Determinism::strict);
  const Outcome first = run(GetParam(), test::test_device(), DType::bf16, true);
  const Outcome second = run(GetParam(), test::test_device(), DType::bf16, true);
  EXPECT_EQ(first.losses, second.losses);
  EXPECT_EQ(first.weights, second.weights);
}

TEST_P(TrainingStepOfWideHeads, AGraphChangesNothingInBf16) {
  const Settings strict(Determinism::strict);
  const Outcome plain = run(GetParam(), test::test_device(), DType::bf16, false);
  const Outcome graph = run(GetParam(), test::test_device(), DType::bf16, true);
  EXPECT_EQ(graph.losses, plain.losses);
  EXPECT_EQ(graph.weights, plain.weights);
}

TEST_P(TrainingStepOfWideHeads, OwnKernelsGiveTheLossesOfTheCpu) {
  const Settings own(Determinism::standard, AttentionKernels::own);
  expect_losses_of_the_cpu(GetParam(), true);
}

// cuDNN is required here: a shape that it does not take is an error. Whoever names the library wants it tested.
TEST_P(TrainingStepOfWideHeads, CudnnGivesTheLossesOfTheCpu) {
  if (!test::on_cuda()) GTEST_SKIP() << "runs as cuda.train.*";
  if (const char* file = std::getenv("T6_CUDNN"); !cudnn_available()) {
    ASSERT_TRUE(file == nullptr || *file == '\0') << "T6_CUDNN is " << file << ", but " << describe_attention_backend();
    GTEST_SKIP() << "no cuDNN here: " << describe_attention_backend();
  }
  const Settings cudnn(Determinism::standard, AttentionKernels::cudnn);
  for (const bool cuda_graph : {false, true}) expect_losses_of_the_cpu(GetParam(), cuda_graph);
}

INSTANTIATE_TEST_SUITE_P(EveryKind, TrainingStepOfWideHeads, testing::ValuesIn(kAttentionKinds),
                         [](const auto& p) { return std::string(kAttentionKindNames[static_cast<size_t>(p.param)]); });

}  // namespace
}  // namespace t6::train
