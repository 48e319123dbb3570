#include "dist/work_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <stdexcept>
#include <vector>

namespace t6 {
namespace {

using dist::WorkQueue;

TEST(WorkQueue, DoesEverythingInOrderBesideTheCaller) {
  WorkQueue queue;
  std::vector<int> done;
  std::atomic<bool> go{false};
  queue.push([&] {
    while (!go) std::this_thread::yield();
  });
  for (int i = 0; i < 1000; ++i) queue.push([&done, i] { done.push_back(i); });
  go = true;  // reached although the first has not returned
  queue.wait();
  ASSERT_EQ(done.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(done[static_cast<size_t>(i)], i);
}

TEST(WorkQueue, ThrowsWhatFailedAndDoesNothingAfter) {
  WorkQueue queue;
  std::atomic<bool> go{false};
  bool after = false;
  queue.push([&] {
    while (!go) std::this_thread::yield();
    throw std::runtime_error("first");
  });
  queue.push([&] { after = true; });
  EXPECT_EQ(queue.failure(), "");
  go = true;
  EXPECT_THROW(queue.wait(), std::runtime_error);
  EXPECT_THROW(queue.push([&] { after = true; }), std::runtime_error);
  EXPECT_EQ(queue.failure(), "first");
  EXPECT_FALSE(after);
}

TEST(WorkQueue, FinishesWhatWasPushedBeforeItEnds) {
  int done = 0;
  {
    WorkQueue queue;
    for (int i = 0; i < 100; ++i) queue.push([&] { ++done; });
  }
  EXPECT_EQ(done, 100);
}

TEST(WorkQueue, ItsThreadTakesNoSignals) {
  WorkQueue queue;
  sigset_t blocked;
  sigemptyset(&blocked);
  queue.push([&] { pthread_sigmask(SIG_SETMASK, nullptr, &blocked); });
  queue.wait();
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 1);
  sigset_t here;
  pthread_sigmask(SIG_SETMASK, nullptr, &here);
  EXPECT_EQ(sigismember(&here, SIGTERM), 0);
}

}  // namespace
}  // namespace t6
