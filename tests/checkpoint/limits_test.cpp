// What very many ranks, and very many parts, do to a checkpoint: a manifest that would be too large is known before
// anything is written.
#include "checkpoint/limits.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "checkpoint/agreement.h"
#include "checkpoint/manifest.h"
#include "support/thread_ranks.h"

namespace t6::checkpoint {
namespace {

// A tensor of which a rank has `parts` ranges.
State state_of(int64_t parts, int64_t begin = 0) {
  State state;
  constexpr int64_t kCount = 8192;
  for (int64_t i = 0; i < parts; ++i) {
    state.tensors.push_back({.name = "params/blocks.0.w",
                             .dtype = DType::f32,
                             .shape = {int64_t{1} << 20, int64_t{1} << 12},
                             .get = {},
                             .set = {},
                             .begin = begin + 3 * i * kCount,
                             .count = kCount});
  }
  return state;
}

// `world` ranks of which each says what this one does.
Peers alike(int world) {
  return {.rank = 0, .world = world, .all_gather = [world](std::string_view text) {
            return std::vector<std::string>(static_cast<size_t>(world), std::string(text));
          }};
}

std::string message_of(const State& state, const Peers& peers) {
  try {
    require_manifest_fits(
        state, [](double times) { return fmt::format("advice for {:.1f} times", times); }, peers);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
}

TEST(Limits, ManifestsOfTooManyPartsAreRefused) {
  EXPECT_EQ(message_of(state_of(1000), {}), "");
  EXPECT_EQ(message_of(state_of(200), alike(1024)), "");
  const std::string message = message_of(state_of(560), alike(1024));
  EXPECT_NE(message.find("a checkpoint of 1024 ranks would be cut into 573,440 parts"), std::string::npos) << message;
  EXPECT_NE(message.find("advice for 1."), std::string::npos) << message;
}

// The estimate is of a manifest as it is written, from above and not by much.
TEST(Limits, AreThoseOfTheManifest) {
  const auto manifest_of = [](const State& state) {
    Manifest manifest;
    manifest.files.push_back({rank_file_name(0), uint64_t{1} << 50, std::string(32, 'a')});
    const int64_t size = state.tensors.back().begin + state.tensors.back().count;
    ManifestTensor tensor{"params/blocks.0.w", DType::f32, {size}, {}};
    for (const TensorRef& ref : state.tensors) {
      tensor.parts.push_back(
          {0, ref.begin, std::min(ref.begin + 3 * ref.count, size) - ref.begin, std::string(32, 'b')});
    }
    manifest.tensors.push_back(std::move(tensor));
    return manifest;
  };
  const State most = state_of(280'000), more = state_of(340'000);
  EXPECT_EQ(message_of(most, {}), "");
  EXPECT_LE(to_text(manifest_of(most)).size(), kMaxManifestBytes);
  EXPECT_NE(message_of(more, {}), "");
  EXPECT_THROW(to_text(manifest_of(more)), Error);
}

}  // namespace
}  // namespace t6::checkpoint
