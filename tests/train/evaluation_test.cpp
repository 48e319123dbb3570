// Validation on several ranks: the same loss, by the same places.
#include "train/evaluation.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "data/shard_files.h"
#include "support/small_model.h"
#include "support/thread_ranks.h"

namespace t6::train {
namespace {

TEST(ValidationLoss, IsTheSameOnAnyNumberOfRanksByTheSamePlaces) {
  const data::testing::TempFolder folder;
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < 200; ++i) ids.push_back(i * 7 % 37);
  data::testing::write_file(folder.path() / "val_000000.bin", data::testing::bin16(ids));
  const std::vector<std::string> globs{(folder.path() / "val_*.bin").string()};

  const ModelConfig config = test::small_model_config(AttentionKind::tpa);
  Transformer model(config);
  test::allocate_random(model, DType::f32);
  const data::ShardSet shards = data::ShardSet::open(std::span(globs), static_cast<uint32_t>(config.vocab_size));
  EvaluationSection section;
  section.windows = 5;
  section.sampling = EvaluationSampling::fixed;
  const auto windows = evaluation_windows(shards, section, static_cast<uint64_t>(config.context), 0);
  ASSERT_EQ(windows.size(), 5u);
  const double alone = evaluate(model, shards, windows, 1).loss;
  for (const int world : {2, 3}) {
    std::vector<std::vector<std::string>> phases(static_cast<size_t>(world));
    test::on_ranks(world, [&](const std::shared_ptr<dist::Communicator>& communicator) {
      std::vector<std::string>& mine = phases[static_cast<size_t>(communicator->rank())];
      const auto note = [&](const char* phase) { mine.emplace_back(phase); };
      EXPECT_EQ(evaluate(model, shards, windows, 1, *communicator, note).loss, alone);
    });
    // One rank has a batch more than another.
    EXPECT_EQ(phases[0].size(), static_cast<size_t>((5 + world - 1) / world + 1));
    EXPECT_EQ(phases[0].back(), "waiting for the validation of all ranks");
    for (const auto& each : phases) EXPECT_EQ(each, phases[0]);
  }
}

}  // namespace
}  // namespace t6::train
