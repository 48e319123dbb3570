// R13: each window is trained on exactly once an epoch, whatever interruptions and numbers of ranks there are.
#include <algorithm>
#include <array>
#include <sstream>

#include "base/rng.h"
#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;

using Place = std::pair<std::string, uint64_t>;  // shard and byte

constexpr uint64_t kContext = 32, kIdBytes = 2;
constexpr int64_t kWindows = 1999 / kContext + 1499 / kContext, kGlobalBatch = 4, kEpochs = 3;
constexpr int64_t kEnd = kEpochs * kWindows / kGlobalBatch;
static_assert(kWindows * kEpochs % kGlobalBatch == 0);

// The windows of the training shards that one rank read, in order: readers=1 reads them as they are used, and some
// ahead that are not.
std::vector<Place> reads(const fs::path& file) {
  std::vector<Place> all;
  std::istringstream lines(read_file(file));
  std::string path;
  uint64_t offset = 0, bytes = 0;
  while (lines >> path >> offset >> bytes) {
    if (path.find("train_") != std::string::npos && bytes == (kContext + 1) * kIdBytes) all.emplace_back(path, offset);
  }
  return all;
}

// Appends the first `count` of them.
void use(std::vector<Place>& used, const std::vector<Place>& all, int64_t count) {
  ASSERT_GE(static_cast<int64_t>(all.size()), count);
  used.insert(used.end(), all.begin(), all.begin() + count);
}

Overrides three_epochs() {
  return {fmt::format("train.steps={}", kEnd), fmt::format("train.global_batch={}", kGlobalBatch), "checkpoint.every=3",
          "evaluation.every=0"};
}

class RunWindows : public RunTest {};
class RunWindowsHeavy : public RanksTest {};

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
      const Outcome outcome = drive(run, environment, three_epochs());
      ASSERT_TRUE(outcome.code == 137 || outcome.code == 0) << outcome.err;
      kills += outcome.code == 137 ? 1 : 0;
      // What counts is what the next start goes on from.
      const int64_t end = std::max<int64_t>(0, newest_step(run));
      use(used, reads(folder() / record), (end - begin) * kGlobalBatch);
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

// Each part of a run on another number of ranks, ended by the death of one of them.
TEST_F(RunWindowsHeavy, EachOnceAnEpochUnderDeathsAndOtherNumbersOfRanks) {
  constexpr std::array kWorlds{2, 4, 1};
  const int kills_wanted = figure(3, 20);
  const Philox random(14, RngPurpose::test);
  int kills = 0, runs = 0, parts = 0;
  for (uint64_t draw = 0; kills < kills_wanted; ++runs) {
    const std::string run = fmt::format("run{}", runs);
    std::vector<Place> used;
    int64_t begin = 0;
    for (int part = 0;; ++part, ++parts) {
      ASSERT_LT(part, 100);
      const int world = kWorlds[static_cast<size_t>(part) % kWorlds.size()], victim = parts % world;
      SCOPED_TRACE(fmt::format("{} part {}: rank {} of {} dies", run, part, victim, world));
      const std::string record = fmt::format("{}.{}.reads", run, part);
      Environment environment{{"T6_RECORD_READS", (folder() / record).string()}};
      if (kills < kills_wanted) {
        // Rank 0 makes most of the disk calls: commits, logs.
        const uint64_t call = victim == 0 ? 40 + random.below(draw++, 150) : 5 + random.below(draw++, 60);
        environment["T6_DIE_AT_CALL"] = std::to_string(call);
        environment["T6_DIE_RANK"] = std::to_string(victim);
      }
      Overrides words = three_epochs();
      words.emplace_back("checkpoint.async=false");  // the order of disk calls
      const Outcome outcome = drive_on(world, run, environment, words);
      kills += outcome.code != 0 ? 1 : 0;
      ASSERT_TRUE(outcome.code == 0 || outcome.code == 7 || outcome.code == 137) << outcome.code << outcome.err;
      const int64_t end = std::max<int64_t>(0, newest_step(run));
      for (int rank = 0; rank < world; ++rank) {
        use(used, reads(folder() / fmt::format("{}.{}", record, rank)), (end - begin) * kGlobalBatch / world);
      }
      begin = end;
      if (outcome.code == 0) break;
    }
    EXPECT_EQ(begin, kEnd);
    EXPECT_EQ(complaints(used, kWindows, kEpochs), "");
    if (HasFailure()) return;
  }
  measured("R13", "the same under {} deaths of a rank in {} runs whose {} parts had 2, 4 or 1 ranks", kills, runs,
           parts + runs);
}

}  // namespace
}  // namespace t6::test
