// When ranks count as hanging, and what is said of them, on a clock of the test's own.
#include "dist/watch.h"

#include <gtest/gtest.h>

#include "dist/processes.h"

namespace t6::dist {
namespace {

std::vector<Seat> seats(int world) {
  std::vector<Seat> all;
  for (int rank = 0; rank < world; ++rank) all.push_back({fmt::format("host{}", rank), "", 100 + rank, "", 0});
  return all;
}

constexpr double kLimit = 10, kSilence = 4;

TEST(Watch, TheSlowestRankDecides) {
  Watch watch(seats(3), 0);
  for (double now = 1; now <= 30; ++now) {
    // Ranks 0 and 2 wait; rank 1 goes on, behind them.
    watch.on_report(0, {5, 2, "reduce gradients", now - 1}, now);
    watch.on_report(2, {5, 2, "reduce gradients", now - 1}, now);
    watch.on_report(1, {4, static_cast<int64_t>(now), "forward", 0}, now);
    EXPECT_EQ(watch.hang(kLimit, kSilence, now).text, "") << now;
  }
  for (double now = 31; now <= 40; ++now) {
    for (const int rank : {0, 2}) watch.on_report(rank, {5, 2, "reduce gradients", now - 1}, now);
    watch.on_report(1, {4, 30, "forward", now - 30}, now);
    EXPECT_EQ(watch.hang(kLimit, kSilence, now).text, "") << now;
  }
  const Watch::Verdict verdict = watch.hang(kLimit, kSilence, 40.5);
  EXPECT_EQ(verdict.text,
            "rank 1 on host1 (process 101) hangs at step 4, forward: it lives and does not go on for 10.5 s, the "
            "watchdog's limit is 10 s\n  ranks 0, 2 arrived at step 5, reduce gradients 39.5 s ago");
  EXPECT_TRUE(verdict.silent.empty());
}

TEST(Watch, WhoSendsNothingIsToBlameWhereverItStands) {
  Watch watch(seats(3), 0);
  watch.on_report(1, {7, 3, "update", 0}, 1);
  for (double now = 1; now <= 11; ++now) {
    for (const int rank : {0, 2}) watch.on_report(rank, {7, 2, "reduce gradients", now - 1}, now);
    EXPECT_EQ(watch.hang(kLimit, kSilence, now).text, "");
  }
  for (const int rank : {0, 2}) watch.on_report(rank, {7, 2, "reduce gradients", 19}, 20);
  const Watch::Verdict verdict = watch.hang(kLimit, kSilence, 20);
  EXPECT_TRUE(says(verdict.text, "rank 1 on host1 (process 101) hangs, last seen at step 7, update: it sends nothing"));
  EXPECT_TRUE(says(verdict.text, "ranks 0, 2 arrived at step 7, reduce gradients 19.0 s ago"));
  EXPECT_EQ(verdict.silent, std::vector<int>{1});
}

TEST(Watch, RanksThatWaitedForASlowOneGetTheirTimeAfterIt) {
  Watch watch(seats(2), 0);
  watch.on_report(1, {1, 0, "forward", 0}, 1);
  for (double now = 1; now <= 30; ++now) {
    watch.on_report(0, {1, 2, "reduce gradients", now - 1}, now);
    watch.on_report(1, {1, 0, "forward", 0}, now);
    EXPECT_EQ(watch.hang(kLimit, kSilence, now).text, "");
  }
  // Rank 1 passes rank 0 between two reports.
  watch.on_report(0, {1, 2, "reduce gradients", 30}, 31);
  watch.on_report(1, {1, 3, "update", 0}, 31);
  EXPECT_EQ(watch.hang(kLimit, kSilence, 31).text, "");
  EXPECT_EQ(watch.hang(kLimit, 100, 40).text, "");
  EXPECT_NE(watch.hang(kLimit, 100, 42).text, "");
}

TEST(Watch, ALostClockIsForgiven) {
  Watch watch(seats(2), 0);
  watch.on_report(0, {1, 0, "forward", 0}, 1);
  watch.on_report(1, {1, 0, "forward", 0}, 1);
  watch.hang(kLimit, kSilence, 1);
  watch.forgive(100);
  EXPECT_EQ(watch.hang(kLimit, kSilence, 104).text, "");
  // A rank that was stopped itself says so by the age it gives its place.
  watch.on_report(0, {1, 0, "forward", 9}, 110);
  watch.on_report(1, {1, 0, "forward", 2}, 110);
  EXPECT_EQ(watch.hang(kLimit, kSilence, 112).text, "");
  EXPECT_NE(watch.hang(kLimit, kSilence, 119).text, "");
}

TEST(Watch, WhoEndedWellIsWatchedNoMore) {
  Watch watch(seats(3), 0);
  watch.on_report(2, {9, 0, "save", 0}, 1);
  watch.on_goodbye(0);
  watch.on_goodbye(1);
  EXPECT_FALSE(watch.all_gone());
  EXPECT_EQ(watch.hang(kLimit, 100, 1).text, "");
  const Watch::Verdict verdict = watch.hang(kLimit, 100, 20);
  EXPECT_TRUE(says(verdict.text, "rank 2 on host2 (process 102) hangs at step 9, save"));
  EXPECT_TRUE(says(verdict.text, "ranks 0, 1 ended well"));
  watch.on_goodbye(2);
  EXPECT_TRUE(watch.all_gone());
  EXPECT_EQ(watch.hang(kLimit, 100, 2000).text, "");
}

TEST(Watch, OfManyThatHangAFewAreNamed) {
  Watch watch(seats(40), 0);
  watch.on_report(0, {2, 1, "backward", 0}, 1);
  watch.hang(kLimit, 100, 1);
  const Watch::Verdict verdict = watch.hang(kLimit, 100, 20);
  EXPECT_TRUE(says(verdict.text, "rank 1 on host1 (process 101) hangs at the start, before its first step"));
  EXPECT_TRUE(says(verdict.text, "\nso do ranks 9-39"));
  EXPECT_TRUE(says(verdict.text, "rank 0 arrived at step 2, backward 19.0 s ago"));
}

}  // namespace
}  // namespace t6::dist
