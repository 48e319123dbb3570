// R22: the memory of a run does not grow with its steps and saves, which are written beside the training.
#include <sstream>

#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;

struct Growth {
  double resident = 0, allocated = 0;  // KiB per 1,000 steps
  int64_t steps = 0;
  long last_kib = 0;
};

// The mean of the last quarter against that of the second: sees a steady leak in full and a single late page hardly.
// Resident memory alone would miss what fits into memory freed since the start.
Growth growth_of(const std::string& record) {
  struct Point {
    double step, resident, allocated;  // of a global batch with a window for each rank: as many steps as windows
  };
  std::vector<Point> points;
  std::istringstream lines(record);
  for (Point point{}; lines >> point.step >> point.resident >> point.allocated;) points.push_back(point);
  EXPECT_GE(points.size(), 40u);
  if (points.size() < 40) return {};
  const size_t quarter = points.size() / 4;
  const auto mean = [&](size_t begin) {
    Point sum{};
    for (size_t i = begin; i < begin + quarter; ++i) {
      sum.step += points[i].step;
      sum.resident += points[i].resident;
      sum.allocated += points[i].allocated;
    }
    return sum;
  };
  const Point early = mean(quarter), late = mean(points.size() - quarter);
  const double thousands = (late.step - early.step) / 1000;
  return {(late.resident - early.resident) / thousands, (late.allocated - early.allocated) / thousands,
          static_cast<int64_t>(points.back().step), static_cast<long>(points.back().resident)};
}

Overrides tiny_steps(int world, int steps, int every) {
  return {fmt::format("train.steps={}", steps),
          fmt::format("checkpoint.every={}", every),
          fmt::format("train.global_batch={}", world),
          "train.micro_batch=1",
          "checkpoint.async=true",
          "evaluation.every=1000",
          "logging.every=1000"};
}

void expect_little(const Growth& growth, int steps) {
  // Under the sanitizers what is freed stays resident for a while.
  if (!kSanitized) {
    EXPECT_LT(growth.resident, 1024);
    EXPECT_LT(growth.allocated, 1024);
  }
  EXPECT_GE(growth.steps, steps);
}

class RunMemory : public RunTest {
 protected:
  Growth grow(const std::string& run, int steps, int every, Environment environment = {}) {
    environment["T6_RECORD_MEMORY"] = (folder() / (run + ".memory")).string();
    const Outcome outcome = drive(run, environment, tiny_steps(1, steps, every));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return growth_of(read_file(folder() / (run + ".memory")));
  }
};

class RunMemoryHeavy : public RanksTest {};

TEST_F(RunMemory, DoesNotGrow) {
  const int steps = figure(2000, 20'000), saves = figure(50, 500);
  const Growth growth = grow("run", steps, steps / saves);
  expect_little(growth, steps);
  measured(
      "R22",
      "{:+.1f} KiB resident and {:+.1f} KiB allocated per 1,000 steps, over {} steps and {} saves beside them; {} MiB "
      "resident",
      growth.resident, growth.allocated, steps, saves, growth.last_kib / 1024);
}

TEST_F(RunMemoryHeavy, DoesNotGrowOnTwoRanks) {
  constexpr int kWorld = 2;
  const int steps = figure(1000, 20'000), saves = figure(25, 500);
  const Outcome outcome = drive_on(kWorld, "run", {{"T6_RECORD_MEMORY", (folder() / "memory").string()}},
                                   tiny_steps(kWorld, steps, steps / saves));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (int rank = 0; rank < kWorld; ++rank) {
    const Growth growth = growth_of(read_file(folder() / fmt::format("memory.{}", rank)));
    expect_little(growth, steps);
    measured(
        "R22",
        "rank {} of {}: {:+.1f} KiB resident and {:+.1f} KiB allocated per 1,000 steps, over {} steps and {} saves",
        rank, kWorld, growth.resident, growth.allocated, steps, saves);
  }
}

TEST_F(RunMemory, ControlALeakIsFound) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers' allocator counts nothing";
  EXPECT_GT(grow("run", 1000, 100, {{"T6_LEAK", "2048"}}).allocated, 1024);
  EXPECT_GT(grow("more", 2000, 200, {{"T6_LEAK", "16384"}}).resident, 1024);
}

}  // namespace
}  // namespace t6::test
