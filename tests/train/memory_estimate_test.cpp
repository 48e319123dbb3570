// The estimate against what tensors take in training: gradients of a tree of micro-steps, and the copy that an
// asynchronous save writes, among them.
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <future>

#include "base/io.h"
#include "data/shard_files.h"
#include "model/counts.h"
#include "ops/matmul.h"
#include "support/device.h"
#include "support/small_model.h"
#include "train/memory_advice.h"
#include "train/saver.h"
#include "train/step.h"
#include "train/training_state.h"

namespace t6::train {
namespace {

// States are most of it.
RunConfig config_of(Reduction reduction, bool async) {
  RunConfig config;
  config.model = test::small_model_config(AttentionKind::tpa);
  config.model.width = 128;
  config.model.layers = 4;
  config.model.vocab_size = 512;
  config.model.context = 64;
  config.train.global_batch = 6;
  config.train.micro_batch = 1;
  config.train.reduction = reduction;
  config.checkpoint.async = async;
  config.train.cuda_graph = false;
  return config;
}

struct Bytes {
  int64_t device = 0, host = 0;  // of tensors; on a CPU all are the device's
};

Bytes peak() {
  const auto host = static_cast<int64_t>(memory::usage().peak);
  if (!test::on_cuda()) return {.device = host};
  return {.device = static_cast<int64_t>(gpu::peak_bytes()), .host = host};
}

Bytes in_use() {
  const auto host = static_cast<int64_t>(memory::usage().in_use);
  if (!test::on_cuda()) return {.device = host};
  return {.device = static_cast<int64_t>(gpu::memory().in_use), .host = host};
}

// Holds back the writing of files until it goes.
class HeldWrites {
 public:
  HeldWrites() {
    io::set_fault_hook([this](io::DiskCall call, const std::filesystem::path& path, size_t&) {
      if (call == io::DiskCall::create && path.extension() == ".h5") released_.wait();
      return 0;
    });
  }
  void release() { release_.set_value(); }
  ~HeldWrites() { io::set_fault_hook({}); }

 private:
  std::promise<void> release_;
  std::shared_future<void> released_ = release_.get_future().share();
};

// Of three steps, the third beside a save that does not come to its end.
Bytes peak_of(const RunConfig& config) {
  const Device device = test::test_device();
  const data::testing::TempFolder folder;
  prepare_matmul(device);
  const MicroBatch batch{test::random_tokens(1, config.model.context, config.model.vocab_size),
                         test::random_tokens(1, config.model.context, config.model.vocab_size, 101)};
  device.is_cuda() ? gpu::reset_peak() : memory::reset_peak();
  const Bytes before = in_use();
  Transformer model(config.model);
  model.allocate(DType::f32, device);
  model.parameters().initialise(5);
  AdamW optimizer(model.parameters(), config.optimizer);
  DataParallel parallel = DataParallel::alone(model.parameters());
  parallel.reduction = config.train.reduction;
  TrainingStep step(model, optimizer, {.micro_steps = config.train.global_batch, .cuda_graph = false}, parallel);
  const auto run = [&](int64_t number) {
    step.run(number, 1e-3, [&] { return batch; });
    step.finish();
  };
  run(1);
  run(2);
  Bytes most;
  {
    Saver saver(folder.path(), {}, {}, config.checkpoint.async);
    std::optional<HeldWrites> held;
    if (config.checkpoint.async) held.emplace();
    saver.start(2, training_state(model.parameters(), optimizer));
    run(3);
    most = peak();
    if (held) held->release();
    saver.complete();
  }
  return {most.device - before.device, most.host - before.host};
}

class MemoryEstimates : public testing::TestWithParam<std::tuple<Reduction, bool>> {};

TEST_P(MemoryEstimates, AreWithinATwentiethOfThePeak) {
  if (test::on_cuda() && gpu::count() == 0) GTEST_SKIP() << "needs a GPU";
  const auto [reduction, async] = GetParam();
  const RunConfig config = config_of(reduction, async);
  const Transformer model(config.model);
  const MemoryEstimate estimate = estimate_memory(model, memory_options(config, test::test_device()));
  const Bytes peak = peak_of(config);
  EXPECT_NEAR(static_cast<double>(estimate.total() - estimate.workspace) / static_cast<double>(peak.device), 1, 0.05)
      << estimate.total() << " estimated, " << peak.device << " taken";
  if (!test::on_cuda() || !async) return;
  EXPECT_NEAR(static_cast<double>(estimate.on_host()) / static_cast<double>(peak.host), 1, 0.05)
      << estimate.on_host() << " estimated, " << peak.host << " taken";
}

INSTANTIATE_TEST_SUITE_P(Settings, MemoryEstimates,
                         testing::Combine(testing::Values(Reduction::fast, Reduction::tree), testing::Bool()));

}  // namespace
}  // namespace t6::train
