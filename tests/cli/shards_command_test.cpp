// t6 shards on shards that t6 tokenize made, and on damaged ones.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace t6::test {
namespace {

using nlohmann::json;

// A llm.c shard of 16-bit ids.
std::string shard(const std::vector<uint16_t>& ids) {
  std::string bytes(1024 + 2 * ids.size(), '\0');
  const int32_t header[3]{20240520, 1, static_cast<int32_t>(ids.size())};
  std::memcpy(bytes.data(), header, sizeof(header));
  std::memcpy(bytes.data() + 1024, ids.data(), 2 * ids.size());
  return bytes;
}

using ShardsCommand = Program;

TEST_F(ShardsCommand, CountsTokensAndTheirEntropy) {
  write("a_1.bin", shard({0, 0, 7, 7}));
  write("a_2.bin", shard({3, 3, 5, 5, 0, 0}));
  const Outcome outcome = run({"shards", "a_*.bin", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json facts = json::parse(outcome.out);
  ASSERT_EQ(facts.at("shards").size(), 2);
  EXPECT_EQ(facts["shards"][0]["path"], "a_1.bin");
  EXPECT_EQ(facts["shards"][0]["tokens"], 4);
  EXPECT_EQ(facts["shards"][0]["bytes_per_token"], 2);
  EXPECT_NEAR(facts["shards"][0]["unigram_entropy"], std::log(2.0), 1e-12);
  EXPECT_NEAR(facts["shards"][1]["unigram_entropy"], std::log(3.0), 1e-12);
  // 4, 2, 2 and 2 of 10.
  EXPECT_NEAR(facts["all"]["unigram_entropy"], 0.4 * std::log(2.5) + 0.6 * std::log(5.0), 1e-12);
  EXPECT_EQ(facts["all"]["tokens"], 10);
  EXPECT_EQ(facts["all"]["distinct"], 4);
  EXPECT_EQ(facts["all"]["highest_id"], 7);

  const Outcome table = run({"shards", "a_*.bin"});
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_TRUE(contains(table.out, "0.6931"));
  EXPECT_TRUE(contains(table.out, "a_2.bin"));
}

// The wrong id lies between those that opening a shard samples.
TEST_F(ShardsCommand, ReadsEveryId) {
  std::vector<uint16_t> ids(200'001, 4);
  ids[123'457] = 300;
  write("a.bin", shard(ids));
  const Outcome good = run({"shards", "a.bin"});
  EXPECT_EQ(good.code, 0) << good.err;
  const Outcome bad = run({"shards", "a.bin", "--vocab", "300"});
  EXPECT_EQ(bad.code, 3);
  EXPECT_TRUE(contains(bad.err, "123457"));
}

TEST_F(ShardsCommand, SaysWhatIsMissing) {
  EXPECT_EQ(run({"shards"}).code, 2);
  const Outcome none = run({"shards", "nothing_*.bin"});
  EXPECT_EQ(none.code, 3);
  EXPECT_TRUE(contains(none.err, "nothing_*.bin"));
  write("cut.bin", shard({1, 2, 3}).substr(0, 1027));
  EXPECT_EQ(run({"shards", "cut.bin"}).code, 3);
}

}  // namespace
}  // namespace t6::test
