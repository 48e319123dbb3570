#include "data/unigram.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "shard_files.h"

namespace t6::data {
namespace {

using testing::bin16;
using testing::bin32;
using testing::error_of;
using testing::TempFolder;
using testing::write_file;

TEST(Unigram, EntropyOfSmallCounts) {
  UnigramCounts counts;
  EXPECT_EQ(counts.entropy(), 0);
  counts.add(std::vector<uint32_t>{7, 7, 7});
  EXPECT_EQ(counts.entropy(), 0);
  counts.add(std::vector<uint32_t>{2, 2, 2});
  EXPECT_DOUBLE_EQ(counts.entropy(), std::log(2.0));
  counts.add(std::vector<uint32_t>{0, 0, 0, 9, 9, 9});
  EXPECT_DOUBLE_EQ(counts.entropy(), std::log(4.0));
  counts.add(std::vector<uint32_t>{0, 0, 0, 0});
  // 3, 3, 3 and 7 of 16.
  EXPECT_NEAR(counts.entropy(), std::log(16.0) - (9 * std::log(3.0) + 7 * std::log(7.0)) / 16, 1e-14);
  EXPECT_EQ(counts.total(), 16u);
  EXPECT_EQ(counts.distinct(), 4u);
  EXPECT_EQ(counts.highest(), 9u);
  EXPECT_EQ(counts.count(0), 7u);
  EXPECT_EQ(counts.count(8), 0u);
  EXPECT_EQ(counts.count(1000), 0u);
}

TEST(Unigram, IsTheLossOfThePredictionByFrequency) {
  UnigramCounts counts;
  std::vector<uint32_t> ids;
  const Philox rng(11, RngPurpose::test);
  for (uint64_t i = 0; i < 5000; ++i) ids.push_back(static_cast<uint32_t>(rng.below(i, 40) * rng.below(i, 40)) % 100);
  counts.add(ids);
  double loss = 0, worse = 0;
  for (const uint32_t id : ids) {
    loss -= std::log(static_cast<double>(counts.count(id)) / 5000);
    worse -= std::log((static_cast<double>(counts.count(id)) + 1) / 5100);
  }
  EXPECT_NEAR(counts.entropy(), loss / 5000, 1e-12);
  EXPECT_LT(counts.entropy(), worse / 5000);  // any other prediction loses more
}

// Over more than one piece, in both widths, and over two shards: the sum of their counts.
TEST(Unigram, ReadsEveryTokenOfShards) {
  const TempFolder folder;
  std::vector<uint32_t> ids(2'500'000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<uint32_t>(i * i % 997);
  ids.back() = 4095;
  write_file(folder / "a.bin", bin16(ids));
  write_file(folder / "b.bin", bin32({5, 70000}));
  UnigramCounts expected;
  expected.add(ids);
  UnigramCounts a, b;
  uint64_t told = 0;
  a.add(TokenShard::open(folder / "a.bin", 4096), [&](uint64_t tokens) { told += tokens; });
  EXPECT_EQ(told, ids.size());
  EXPECT_EQ(a.total(), ids.size());
  for (uint32_t id = 0; id < 4096; ++id) ASSERT_EQ(a.count(id), expected.count(id)) << id;
  b.add(TokenShard::open(folder / "b.bin", 70001));
  b.add(a);
  EXPECT_EQ(b.total(), ids.size() + 2);
  EXPECT_EQ(b.count(5), expected.count(5) + 1);
  EXPECT_EQ(b.highest(), 70000u);
}

TEST(Unigram, RefusesAnIdBeyondTheVocabularyAnywhere) {
  const TempFolder folder;
  std::vector<uint32_t> ids(300'001, 3);
  ids[123'457] = 4096;  // between the ids that opening looks at
  write_file(folder / "a.bin", bin16(ids));
  const TokenShard shard = TokenShard::open(folder / "a.bin", 4096);
  UnigramCounts counts;
  const auto error = error_of([&] { counts.add(shard); });
  EXPECT_TRUE(testing::contains(error.what(), "4096"));
}

}  // namespace
}  // namespace t6::data
