// R13: each window is trained on exactly once an epoch, whatever interruptions there are.
#include <algorithm>
#include <sstream>

#include "base/rng.h"
#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;

using Place = std::pair<std::string, uint64_t>;  // shard and byte

class RunWindows : public RunTest {
 protected:
  static constexpr uint64_t kContext = 32, kIdBytes = 2;
  static constexpr int64_t kWindows = 1999 / kContext + 1499 / kContext, kGlobalBatch = 4, kEpochs = 3;
  static constexpr int64_t kEnd = kEpochs * kWindows / kGlobalBatch;

  // The windows of the training shards that one start read, in order: readers=1 reads them as they are used, and some
  // ahead that are not.
  std::vector<Place> reads(const std::string& file) const {
    std::vector<Place> all;
    std::istringstream lines(read_file(folder() / file));
    std::string path;
    uint64_t offset = 0, bytes = 0;
    while (lines >> path >> offset >> bytes) {
      if (path.find("train_") != std::string::npos && bytes == (kContext + 1) * kIdBytes)
        all.emplace_back(path, offset);
    }
    return all;
  }
};

// How often each window was used, compared with `epochs`; empty when every one was that often.
std::string complaints(const std::vector<Place>& used, int64_t windows, int64_t epochs) {
  std::map<Place, int64_t> counts;
  for (const Place& place : used) ++counts[place];
  std::string text;
  if (static_cast<int64_t>(counts.size()) != windows) text += fmt::format("{} windows were used; ", counts.size());
  for (const auto& [place, count] : counts) {
    const bool aligned = (place.second - 1024) % (32 * 2) == 0;
    if (count != epochs || !aligned) text += fmt::format("{} byte {}: {} times; ", place.first, place.second, count);
  }
  return text;
}

TEST_F(RunWindows, EachOnceAnEpochUnderKills) {
  static_assert(kWindows * kEpochs % kGlobalBatch == 0);
  const int kills_wanted = figure(6, 20);
  const Philox random(13, RngPurpose::test);
  int kills = 0, runs = 0;
  for (uint64_t draw = 0; kills < kills_wanted; ++runs) {
    const std::string run = fmt::format("run{}", runs);
    std::vector<Place> used;
    int64_t begin = 0;
    for (int part = 0;; ++part) {
      ASSERT_LT(part, 100);
      const std::string record = fmt::format("{}.{}.reads", run, part);
      Environment environment{{"T6_RECORD_READS", (folder() / record).string()}};
      if (kills < kills_wanted) {
        // Past the calls of a start, some three saves on: of the instants the tests of kills vary more.
        environment["T6_DIE_AT_CALL"] = std::to_string(40 + random.below(draw++, 200));
      }
      const Outcome outcome =
          drive(run, environment, {fmt::format("train.steps={}", kEnd), "checkpoint.every=3", "evaluation.every=0"});
      ASSERT_TRUE(outcome.code == 137 || outcome.code == 0) << outcome.err;
      kills += outcome.code == 137 ? 1 : 0;
      // What counts is what the next start goes on from.
      const int64_t end = std::max<int64_t>(0, newest_step(run));
      const std::vector<Place> all = reads(record);
      ASSERT_GE(static_cast<int64_t>(all.size()), (end - begin) * kGlobalBatch);
      used.insert(used.end(), all.begin(), all.begin() + (end - begin) * kGlobalBatch);
      begin = end;
      if (outcome.code == 0) break;
    }
    EXPECT_EQ(begin, kEnd);
    EXPECT_EQ(complaints(used, kWindows, kEpochs), "");
    // Control: one window less, one twice.
    std::vector<Place> wrong = used;
    wrong.pop_back();
    EXPECT_NE(complaints(wrong, kWindows, kEpochs), "");
    wrong.push_back(used.front() == used.back() ? used[1] : used.front());
    EXPECT_NE(complaints(wrong, kWindows, kEpochs), "");
  }
  measured("R13", "{} windows, each used {} times in {} epochs, under {} kills in {} runs", kWindows, kEpochs, kEpochs,
           kills, runs);
}

}  // namespace
}  // namespace t6::test
