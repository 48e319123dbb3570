#include "base/profile.h"

#include <gtest/gtest.h>

#include <thread>

namespace t6::profile {
namespace {

void pass(double seconds) {
  const auto begin = std::chrono::steady_clock::now();
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds) {
  }
}

const Entry& find(const std::vector<Entry>& entries, const std::string& name) {
  for (const Entry& entry : entries) {
    if (entry.name == name) return entry;
  }
  static const Entry none;
  ADD_FAILURE() << "no entry " << name;
  return none;
}

TEST(Profile, CountsNothingWhenOff) {
  { const Scope scope("before", {.flops = 5}); }
  start();
  const std::vector<Entry> entries = stop();
  EXPECT_TRUE(entries.empty());
}

TEST(Profile, GivesInnerTimeToTheInnerScopeOnly) {
  start();
  {
    const Scope outer("outer", {.flops = 1});
    pass(0.002);
    for (int i = 0; i < 3; ++i) {
      const Scope inner("inner", {.flops = 10});
      pass(0.02);
    }
  }
  const std::vector<Entry> entries = stop();
  ASSERT_EQ(entries.size(), 2);
  EXPECT_EQ(entries[0].name, "inner") << "most seconds first";
  EXPECT_EQ(find(entries, "inner").calls, 3);
  EXPECT_EQ(find(entries, "inner").flops, 30);
  EXPECT_GE(find(entries, "inner").seconds, 0.06);
  EXPECT_EQ(find(entries, "outer").calls, 1);
  EXPECT_EQ(find(entries, "outer").flops, 1);
  EXPECT_GE(find(entries, "outer").seconds, 0.002);
  // The outer scope's own work is 2 ms; with the inner ones it would be 62.
  EXPECT_LT(find(entries, "outer").seconds, 0.06);
}

TEST(Profile, CountsScopesOfAllThreadsAndStartsAnew) {
  start();
  std::thread other([] { const Scope scope("work"); });
  other.join();
  { const Scope scope("work"); }
  EXPECT_EQ(find(stop(), "work").calls, 2);
  start();
  EXPECT_TRUE(stop().empty());
}

TEST(Profile, DropsAScopeThatOutlivesTheProfile) {
  start();
  {
    const Scope scope("late");
    EXPECT_TRUE(stop().empty());
  }
  start();
  EXPECT_TRUE(stop().empty());
}

// A device whose marks are ten milliseconds apart.
class FakeClock : public DeviceClock {
 public:
  int mark() override { return marks++; }
  double seconds(int from, int to) override { return 0.01 * (to - from); }
  void forget() override { marks = 0; }
  int marks = 0;
};

TEST(Profile, ScopesOfADeviceAreTimedByItsMarks) {
  FakeClock clock;
  { const Scope scope("off", {}, &clock); }
  EXPECT_EQ(clock.marks, 0);
  start();
  for (int i = 0; i < 3; ++i) const Scope scope("kernel", {.flops = 7, .bytes = 5}, &clock);
  EXPECT_EQ(clock.marks, 6);
  const std::vector<Entry> entries = stop();
  ASSERT_EQ(entries.size(), 1);
  EXPECT_EQ(entries[0].calls, 3);
  EXPECT_DOUBLE_EQ(entries[0].seconds, 0.03);
  EXPECT_EQ(entries[0].flops, 21);
  EXPECT_EQ(entries[0].bytes, 15);
  EXPECT_EQ(clock.marks, 0);
}

}  // namespace
}  // namespace t6::profile
