#include "data/loader.h"

#include <gtest/gtest.h>

#include "shard_files.h"

namespace t6::data {
namespace {

using testing::bin16;
using testing::bin32;
using testing::contains;
using testing::error_of;
using testing::some_ids;
using testing::TempFolder;
using testing::write_file;

constexpr uint32_t kVocabulary = 1000;
constexpr uint64_t kWindow = 16;

struct Corpus {
  TempFolder folder;
  std::vector<std::vector<uint32_t>> ids{some_ids(3000, kVocabulary, 1), some_ids(777, kVocabulary, 2)};
  ShardSet shards = open();

  ShardSet open() {
    write_file(folder / "a_000.bin", bin16(ids[0]));
    write_file(folder / "a_001.bin", bin32(ids[1]));
    const std::vector<std::string> patterns{(folder / "a_*.bin").string()};
    return ShardSet::open(patterns, kVocabulary);
  }
  Sampler sampler(SampleOrder order = SampleOrder::shuffled) const {
    return Sampler(order, 77, kWindow, shards.token_counts());
  }
};

TEST(Loader, GivesTheWindowsOfTheSampler) {
  Corpus corpus;
  for (SampleOrder order : {SampleOrder::shuffled, SampleOrder::random_window}) {
    const BatchPlan plan{.global_batch = 12, .micro_batch = 2, .rank = 1, .world = 3};
    Loader loader(corpus.shards, corpus.sampler(order), plan);
    for (uint64_t step = 0; step < 40; ++step) {
      for (uint64_t micro = 0; micro < 2; ++micro) {
        const Batch& batch = loader.next();
        ASSERT_EQ(batch.step, step);
        ASSERT_EQ(batch.micro_step, micro);
        const std::vector<Window> windows = corpus.sampler(order).micro_batch(plan, step, micro);
        for (size_t b = 0; b < 2; ++b) {
          for (size_t t = 0; t < kWindow; ++t) {
            const auto& ids = corpus.ids[windows[b].shard];
            ASSERT_EQ(batch.tokens[b * kWindow + t], static_cast<int32_t>(ids[windows[b].offset + t]));
            ASSERT_EQ(batch.targets[b * kWindow + t], static_cast<int32_t>(ids[windows[b].offset + t + 1]));
          }
        }
      }
    }
  }
}

TEST(Loader, ThreadsAndDepthChangeNothing) {
  Corpus corpus;
  const BatchPlan plan{.global_batch = 4, .micro_batch = 2};
  Loader one(corpus.shards, corpus.sampler(), plan, 0, {}, {.depth = 1, .threads = 1});
  Loader many(corpus.shards, corpus.sampler(), plan, 0, {}, {.depth = 7, .threads = 4});
  for (int i = 0; i < 500; ++i) {
    const Batch& a = one.next();
    const Batch& b = many.next();
    ASSERT_EQ(a.tokens, b.tokens);
    ASSERT_EQ(a.targets, b.targets);
    ASSERT_EQ(one.consumed(), many.consumed());
  }
}

TEST(Loader, ResumesAtAnyStepWithTheSameBatchesAndHash) {
  Corpus corpus;
  const BatchPlan plan{.global_batch = 6, .micro_batch = 2};
  constexpr uint64_t kSteps = 30;
  std::vector<std::vector<int32_t>> tokens;
  std::vector<TokenHash> hashes;  // before each step
  Loader whole(corpus.shards, corpus.sampler(), plan);
  for (uint64_t step = 0; step < kSteps; ++step) {
    hashes.push_back(whole.consumed());
    for (uint64_t micro = 0; micro < plan.micro_steps(); ++micro) tokens.push_back(whole.next().tokens);
  }
  for (uint64_t start : {0, 1, 7, 29}) {
    // A fresh process takes the hash's two words from the checkpoint.
    Loader fresh(corpus.shards, corpus.sampler(), plan, start, TokenHash(hashes[start].low(), hashes[start].high()));
    for (uint64_t i = start * plan.micro_steps(); i < tokens.size(); ++i) ASSERT_EQ(fresh.next().tokens, tokens[i]);
    EXPECT_EQ(fresh.consumed(), whole.consumed());
    EXPECT_EQ(fresh.consumed().hex(), whole.consumed().hex());
  }
}

TEST(Loader, HashesOfRanksAddUpToThatOfOne) {
  Corpus corpus;
  Loader one(corpus.shards, corpus.sampler(), {.global_batch = 12, .micro_batch = 12});
  for (int i = 0; i < 10; ++i) one.next();
  TokenHash by_hand;
  for (uint64_t position = 0; position < 120; ++position) {
    const Window window = corpus.sampler().row({.global_batch = 12, .micro_batch = 12}, position / 12, position % 12);
    std::vector<int32_t> ids(kWindow + 1);
    corpus.shards[window.shard].read(ids, window.offset);
    by_hand.add_row(position, ids);
  }
  EXPECT_EQ(one.consumed(), by_hand);
  for (uint32_t world : {2, 3, 4}) {
    TokenHash sum;
    for (uint32_t rank = 0; rank < world; ++rank) {
      Loader loader(corpus.shards, corpus.sampler(),
                    {.global_batch = 12, .micro_batch = 1, .rank = rank, .world = world});
      for (uint32_t i = 0; i < 10 * 12 / world; ++i) loader.next();
      sum.add(loader.consumed());
    }
    EXPECT_EQ(sum, one.consumed()) << world << " ranks";
  }
}

TEST(TokenHash, DependsOnOrderAndEveryToken) {
  const std::vector<int32_t> a{1, 2, 3}, b{4, 5, 6}, c{4, 5, 7};
  const auto hash = [](const std::vector<int32_t>& first, const std::vector<int32_t>& second) {
    TokenHash h;
    h.add_row(0, first);
    h.add_row(1, second);
    return h;
  };
  EXPECT_EQ(hash(a, b), hash(a, b));
  EXPECT_NE(hash(a, b), hash(b, a));
  EXPECT_NE(hash(a, b), hash(a, c));
  EXPECT_NE(hash(a, a), hash(b, b));
  TokenHash carry(~uint64_t{0}, 0);
  carry.add(TokenHash(1, 0));
  EXPECT_EQ(carry, TokenHash(0, 1));
  EXPECT_EQ(carry.hex(), "00000000000000010000000000000000");
}

TEST(Loader, ErrorsOfTheThreadAreThrownByNext) {
  Corpus corpus;
  // A damaged id after opening, in the place of the window that step 5 reads.
  const BatchPlan plan{.global_batch = 2, .micro_batch = 2};
  const Window window = corpus.sampler().row(plan, 5, 1);
  auto ids = corpus.ids[window.shard];
  ids[window.offset + 3] = 60000;
  // Written in place: the open shard keeps its descriptor.
  const fs::path path = corpus.shards[window.shard].path();
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const std::string bytes = window.shard == 0 ? bin16(ids) : bin32(ids);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();

  for (uint32_t threads : {1, 3}) {
    Loader loader(corpus.shards, corpus.sampler(), plan, 0, {}, {.depth = 3, .threads = threads});
    for (int i = 0; i < 5; ++i) EXPECT_EQ(loader.next().step, i);
    for (int again = 0; again < 2; ++again) {
      const Error error = error_of([&] { loader.next(); });
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_TRUE(contains(error.what(), path.filename().string())) << error.what();
      EXPECT_TRUE(contains(error.what(), "60000")) << error.what();
      EXPECT_TRUE(contains(error.what(), std::to_string(window.offset + 3))) << error.what();
    }
  }
}

TEST(Loader, RejectsAPlanThatDoesNotDivide) {
  Corpus corpus;
  EXPECT_EQ(error_of([&] { Loader(corpus.shards, corpus.sampler(), {.global_batch = 5, .micro_batch = 2}); }).code(),
            ExitCode::usage);
}

TEST(ReadWindows, ShiftsTargetsByOne) {
  Corpus corpus;
  const std::vector<Window> windows{{1, 700}, {0, 0}};
  std::vector<int32_t> tokens(2 * kWindow), targets(2 * kWindow);
  read_windows(corpus.shards, windows, kWindow, tokens, targets);
  for (size_t t = 0; t < kWindow; ++t) {
    EXPECT_EQ(tokens[t], static_cast<int32_t>(corpus.ids[1][700 + t]));
    EXPECT_EQ(targets[t], static_cast<int32_t>(corpus.ids[1][701 + t]));
    EXPECT_EQ(tokens[kWindow + t], static_cast<int32_t>(corpus.ids[0][t]));
    EXPECT_EQ(targets[kWindow + t], static_cast<int32_t>(corpus.ids[0][t + 1]));
  }
}

}  // namespace
}  // namespace t6::data
