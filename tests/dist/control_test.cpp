// Ranks that die, fail, stop or spin: all end in time, with one message, and no process stays. Every detector is also
// switched off once, to see that it was the one that acted.
#include "dist/control.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <random>

#include "dist/processes.h"
#include "support/promise.h"

namespace t6::dist {
namespace {

// Waits until the counter is that far; false when it is not after half a minute.
bool reaches(const std::atomic<int>& counter, int count) {
  for (const double until = steady_seconds() + 30; counter < count && steady_seconds() < until;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return counter >= count;
}

// A counter that forked processes share.
class Shared {
 public:
  Shared() {
    void* page = ::mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) std::abort();
    count_ = new (page) std::atomic<int>(0);
  }
  ~Shared() { ::munmap(count_, sizeof(std::atomic<int>)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  std::atomic<int>* get() const { return count_; }
  // However busy the machine is; false: it never came so far.
  bool reaches(int count) const { return dist::reaches(*count_, count); }

 private:
  std::atomic<int>* count_;
};

enum class Fault { none, kill, leave, error, stop, spin };

struct Course {
  int world = 3;
  double watchdog = 0;
  std::vector<int> faulty{1};
  Fault fault = Fault::none;
  int64_t at = 4;               // step of the fault
  const char* in = "backward";  // its phase
  int64_t steps = 8;
  double phase_seconds = 0.02;
  std::function<bool(Sign)> overlook;
  // Shared by all processes.
  std::atomic<int>* under_way = nullptr;  // ranks that came to the second step
  std::atomic<int>* arrived = nullptr;    // healthy ranks that wait for the faulty ones
  std::atomic<int>* suffered = nullptr;   // faulty ones whose fault begins
};

void suffer(Fault fault, Control& control) {
  switch (fault) {
    case Fault::none:
      return;
    case Fault::kill:
      ::raise(SIGKILL);
      return;
    case Fault::leave:
      ::_exit(0);
    case Fault::error:
      if (!control.say_why(ExitCode::data, "the corpus is torn")) std::abort();
      throw SaidElsewhere(ExitCode::data, "the corpus is torn");
    case Fault::stop:
      ::raise(SIGSTOP);
      return;
    case Fault::spin:
      for (volatile bool on = true; on;) {
      }
  }
}

// A run of steps of three phases, the last of which is a collective operation.
int be_rank(const Course& run, int rank, int port) {
  const Ranks ranks{rank, run.world, rank, run.world};
  const bool chosen = std::find(run.faulty.begin(), run.faulty.end(), rank) != run.faulty.end();
  const bool faulty = run.fault != Fault::none && chosen;
  std::atomic<int> reports = 0;
  const auto overlook = [&](Sign sign) {
    if (sign == Sign::failure) ++reports;  // looked for once a report, before it is sent
    return run.overlook && run.overlook(sign);
  };
  Control control(ranks, meet({ranks, {"127.0.0.1", port}, {}, "", "n", 20}), {run.watchdog, 0.2, overlook});
  for (int64_t step = 1; step <= run.steps; ++step) {
    if (step == 2 && run.under_way != nullptr) ++*run.under_way;
    for (const char* phase : {"forward", "backward", "reduce gradients"}) {
      control.progress(step, phase);
      if (faulty && step == run.at && std::string_view(phase) == run.in) {
        // Until the others are where they wait, and rank 0 was told of this place: in the second report from now at the
        // latest, which is sent before the third.
        reaches(*run.arrived, run.world - static_cast<int>(run.faulty.size()));
        reaches(reports, reports + 3);
        ++*run.suffered;
        suffer(run.fault, control);
      }
      if (!faulty && step == run.at && run.arrived != nullptr && std::string_view(phase) == "reduce gradients") {
        ++*run.arrived;
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(run.phase_seconds));
    }
    control.all_gather_text("");
  }
  control.goodbye();
  return 0;
}

// A limit that the promises state; the ordinary suite allows for a machine that does much else.
double within(double seconds) {
  return test::full_figures() ? seconds : seconds + 15;
}

// `patience` counts from the fault on.
std::vector<Ended> execute(Course run, double patience = 40) {
  const Shared arrived, suffered;
  run.arrived = arrived.get();
  run.suffered = suffered.get();
  const int port = free_port();
  Processes ranks;
  ranks.start(run.world, [&](int rank) { return be_rank(run, rank, port); });
  if (run.fault != Fault::none) suffered.reaches(1);
  return ranks.wait(patience);
}

int messages(const std::vector<Ended>& ended) {
  const std::string text = all_said(ended);
  int count = 0;
  for (size_t at = text.find("t6: "); at != std::string::npos; at = text.find("t6: ", at + 1)) ++count;
  return count;
}

void expect_end(const std::vector<Ended>& ended, const std::vector<int>& faulty, int code_of_faulty, int speaker,
                const std::vector<std::string>& parts, double seconds, int code_of_others = 7) {
  for (int rank = 0; rank < static_cast<int>(ended.size()); ++rank) {
    const Ended& each = ended[static_cast<size_t>(rank)];
    const bool is_faulty = std::find(faulty.begin(), faulty.end(), rank) != faulty.end();
    EXPECT_EQ(each.code, is_faulty ? code_of_faulty : code_of_others) << "rank " << rank << " said: " << each.err;
    EXPECT_LT(each.seconds, within(seconds)) << rank;
  }
  EXPECT_EQ(messages(ended), 1) << all_said(ended);
  for (const std::string& part : parts) EXPECT_TRUE(says(ended[static_cast<size_t>(speaker)].err, part));
}

TEST(Control, HealthyRunsEndWell) {
  for (const int world : {1, 2, 4}) {
    Course run;
    run.world = world;
    run.watchdog = 5;
    const std::vector<Ended> ended = execute(run);
    for (const Ended& each : ended) EXPECT_EQ(each.code, 0) << all_said(ended);
    EXPECT_EQ(all_said(ended), "");
  }
}

TEST(Control, ADeadRankEndsAll) {
  Course run;
  run.fault = Fault::kill;
  expect_end(execute(run), {1}, 128 + SIGKILL, 0,
             {"rank 1 on " + host_name(), "process ",
              "died, last seen at step 4, backward, rank 0 being at step 4, reduce gradients", "without a word"},
             5);
}

TEST(Control, ARankThatLeavesWithoutGoodbyeEndsAll) {
  Course run;
  run.fault = Fault::leave;
  expect_end(execute(run), {1}, 0, 0, {"rank 1 on " + host_name(), "died"}, 5);
}

// Data that the other side does not take stands for a network that loses it: both end with the kernel's ETIMEDOUT.
TEST(Control, ALostHostIsNoDeadRank) {
  const int port = free_port();
  Processes processes;
  processes.start(2, [&](int rank) {
    const Ranks ranks{rank, 2, rank, 2};
    Star star = meet({ranks, {"127.0.0.1", port}, {}, "", "n", 20});
    if (rank == 1) {
      std::this_thread::sleep_for(std::chrono::seconds(5));
      return 0;
    }
    Link& link = star.links[1];
    const int limit_ms = 300;
    ::setsockopt(link.descriptor(), IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof limit_ms);
    for (int i = 0; i < 32; ++i) send(link, Kind::report, std::string(size_t{1} << 20, 'x'));
    Control control(ranks, std::move(star), {});
    control.progress(3, "backward");
    control.all_gather_text("");
    return 0;
  });
  const std::vector<Ended> ended = processes.wait(20);
  EXPECT_EQ(ended[0].code, 7) << ended[0].err;
  EXPECT_TRUE(says(ended[0].err, "rank 1 on " + host_name()));
  EXPECT_TRUE(says(ended[0].err, "cannot be reached, last seen at the start"));
  EXPECT_TRUE(says(ended[0].err, "its host answers nothing for 10 s"));
}

TEST(Control, ADeadRankZeroIsSaidByTheLowestThatLives) {
  Course run;
  run.world = 4;
  run.fault = Fault::kill;
  run.faulty = {0};
  expect_end(execute(run), {0}, 128 + SIGKILL, 1, {"rank 0 on " + host_name(), "died", "said by rank 1", "step 4"}, 5);
  run.faulty = {0, 1};
  const std::vector<Ended> ended = execute(run);
  // The death of rank 1 may come first, and be said by rank 0 in its last moment.
  EXPECT_LE(messages(ended), 2) << all_said(ended);
  EXPECT_GE(messages(ended), 1);
  EXPECT_EQ(ended[2].code, 7);
  EXPECT_EQ(ended[3].code, 7);
}

TEST(Control, AnErrorOfOneRankIsSaidOnceWithItsCause) {
  Course run;
  run.fault = Fault::error;
  expect_end(execute(run), {1}, 3, 0,
             {"rank 1 on " + host_name(), "ended by an error at step 4, backward: the corpus is torn"}, 5, 3);
  run.faulty = {0};
  expect_end(execute(run), {0}, 3, 0,
             {"rank 0 on " + host_name(), "ended by an error at step 4, backward: the corpus is torn"}, 5, 3);
  run.faulty = {0, 1, 2};  // whoever is first
  const std::vector<Ended> ended = execute(run);
  EXPECT_EQ(messages(ended), 1) << all_said(ended);
  for (const Ended& each : ended) EXPECT_EQ(each.code, 3);
}

TEST(Control, ASpinningRankEndsAllWithinTheLimit) {
  Course run;
  run.fault = Fault::spin;
  run.watchdog = 3;
  expect_end(execute(run), {1}, 7, 0,
             {"rank 1 on " + host_name(), "hangs at step 4, backward", "the watchdog's limit is 3 s",
              "ranks 0, 2 arrived at step 4, reduce gradients"},
             3 + 5);
}

TEST(Control, AStoppedRankIsEndedWithAllOthers) {
  Course run;
  run.fault = Fault::stop;
  run.watchdog = 3;
  expect_end(execute(run), {1}, 128 + SIGKILL, 0,
             {"rank 1 on " + host_name(), "hangs, last seen at step 4, backward", "it sends nothing",
              "ranks 0, 2 arrived at step 4, reduce gradients"},
             3 + 5);
}

TEST(Control, AStoppedRankZeroIsSaidByTheLowestThatLives) {
  Course run;
  run.fault = Fault::stop;
  run.faulty = {0};
  run.watchdog = 3;
  expect_end(execute(run), {0}, 128 + SIGKILL, 1,
             {"rank 0 on " + host_name(), "hangs", "it sends nothing", "said by rank 1"}, 3 + 5);
}

TEST(Control, TheOnlyRankHasAWatchdogToo) {
  Course run;
  run.world = 1;
  run.fault = Fault::spin;
  run.faulty = {0};
  run.watchdog = 1;
  expect_end(execute(run), {0}, 7, 0, {"rank 0 on " + host_name(), "hangs at step 4, backward"}, 1 + 5);
}

TEST(Control, AHangOfAllIsNobodysFault) {
  Course run;
  run.fault = Fault::spin;
  run.faulty = {0, 1, 2};
  run.watchdog = 3;
  expect_end(execute(run), {0, 1, 2}, 7, 0, {"all ranks hang at step 4, backward", "network or the storage"}, 3 + 5);
}

TEST(Control, SlowRanksAreNoHang) {
  Course run;
  run.watchdog = 3;
  run.phase_seconds = 0.7;
  run.steps = 2;
  for (const Ended& each : execute(run)) EXPECT_EQ(each.code, 0) << each.err;
}

// All are in the same phase, and one has not come as far in it as to wait for the others.
std::vector<Ended> two_waits_of_which_rank_2_misses_one(bool said) {
  const int port = free_port();
  Processes processes;
  processes.start(3, [&](int rank) {
    const Ranks ranks{rank, 3, rank, 3};
    Control control(ranks, meet({ranks, {"127.0.0.1", port}, {}, "", "n", 20}), {3, 0.2, {}});
    control.progress(7, "saving");
    for (int wait = 0; wait < 2; ++wait) {
      if (wait == 1 && rank == 2) suffer(Fault::spin, control);
      if (said) control.waits(true);
      control.all_gather_text("");
      if (said) control.waits(false);
    }
    control.goodbye();
    return 0;
  });
  return processes.wait(20);
}

TEST(Control, WhoDoesNotComeToAWaitIsNamed) {
  expect_end(two_waits_of_which_rank_2_misses_one(true), {2}, 7, 0,
             {"rank 2 on " + host_name(), "hangs at step 7, saving: it lives and does not go on",
              "ranks 0, 1 arrived at step 7, saving, waiting for all ranks"},
             3 + 5);
}

TEST(ControlBroken, WithoutAWordOfWaitsNobodyIsNamed) {
  expect_end(two_waits_of_which_rank_2_misses_one(false), {2}, 7, 0, {"all ranks hang at step 7, saving"}, 3 + 5);
}

// Others wait for it longer than the limit, but it goes on.
TEST(Control, WaitingForASlowRankIsNoHang) {
  const int port = free_port();
  Processes processes;
  processes.start(3, [&](int rank) {
    const Ranks ranks{rank, 3, rank, 3};
    Control control(ranks, meet({ranks, {"127.0.0.1", port}, {}, "", "n", 20}), {3, 0.2, {}});
    for (int i = 0; i < 7; ++i) {
      control.progress(1, "forward");
      if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(600));
    }
    control.all_gather_text("");
    control.goodbye();
    return 0;
  });
  for (const Ended& each : processes.wait(20)) EXPECT_EQ(each.code, 0) << each.err;
}

TEST(Control, AStoppedJobGoesOn) {
  Course run;
  run.watchdog = 1.5;
  run.steps = 20;
  const int port = free_port();
  Processes processes;
  processes.start(3, [&](int rank) { return be_rank(run, rank, port); });
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  for (int rank = 0; rank < 3; ++rank) ::kill(processes.process(rank), SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(3500));
  for (int rank = 0; rank < 3; ++rank) ::kill(processes.process(rank), SIGCONT);
  for (const Ended& each : processes.wait(20)) EXPECT_EQ(each.code, 0) << each.err;
}

TEST(Control, TheHookIsCalledBeforeTheEndButMayNotDelayIt) {
  const int port = free_port();
  Processes processes;
  processes.start(2, [&](int rank) {
    const Ranks ranks{rank, 2, rank, 2};
    Control control(ranks, meet({ranks, {"127.0.0.1", port}, {}, "", "n", 20}), {});
    control.watch_over({}, [] {
      if (::write(2, "hook", 4) != 4) ::_exit(98);
      for (;;) ::pause();
    });
    control.all_gather_text("");
    if (rank == 1) ::_exit(0);
    control.all_gather_text("");
    return 0;
  });
  const std::vector<Ended> ended = processes.wait(20);
  EXPECT_EQ(ended[0].code, 7);
  EXPECT_TRUE(says(ended[0].err, "hook"));
  EXPECT_LT(ended[0].seconds, within(5));
}

// ---- the same with a detector that overlooks ----

int still_there(const std::vector<Ended>& ended) {
  return static_cast<int>(std::count_if(ended.begin(), ended.end(), [](const Ended& each) { return each.code == -1; }));
}

TEST(ControlBroken, WithoutALookAtClosuresADeathGoesUnseen) {
  Course run;
  run.fault = Fault::kill;
  run.overlook = [](Sign sign) { return sign == Sign::closure; };
  EXPECT_EQ(still_there(execute(run, 3)), 2);
}

TEST(ControlBroken, WithoutTheWatchdogAHangGoesUnseen) {
  Course run;
  run.fault = Fault::spin;
  run.watchdog = 1.5;  // a busy machine may hold up ranks for half a second
  run.overlook = [](Sign sign) { return sign == Sign::hang; };
  EXPECT_EQ(still_there(execute(run, 3)), 3);
  run.overlook = {};
  run.watchdog = 0;
  EXPECT_EQ(still_there(execute(run, 3)), 3);
}

TEST(ControlBroken, WithoutALookAtSilenceAStoppedRankZeroGoesUnseen) {
  Course run;
  run.fault = Fault::stop;
  run.faulty = {0};
  run.watchdog = 1.5;  // a busy machine may hold up ranks for half a second
  run.overlook = [](Sign sign) { return sign == Sign::silence; };
  EXPECT_EQ(still_there(execute(run, 3)), 3);
}

TEST(ControlBroken, RanksThatReportNothingAreTakenForStopped) {
  Course run;
  run.watchdog = 1;
  run.steps = 100;
  run.phase_seconds = 0.03;
  run.overlook = [](Sign sign) { return sign == Sign::report || sign == Sign::silence; };
  const std::vector<Ended> ended = execute(run);
  EXPECT_EQ(ended[0].code, 7);
  EXPECT_TRUE(says(ended[0].err, "it sends nothing"));
}

// ---- again and again, at random instants ----

TEST(ControlKill, DeathsAtRandomInstantsEndAllEachTime) {
  std::mt19937 random(1);
  double slowest = 0;
  for (int round = 0; round < 50; ++round) {
    Course run;
    run.world = 2 + round % 4;
    run.steps = 1000;
    const Shared shared;
    run.under_way = shared.get();
    const auto victim = static_cast<int>(random() % static_cast<unsigned>(run.world));
    const int port = free_port();
    Processes processes;
    processes.start(run.world, [&](int rank) { return be_rank(run, rank, port); });
    ASSERT_TRUE(shared.reaches(run.world));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 500));
    const double killed = steady_seconds();
    ::kill(processes.process(victim), SIGKILL);
    const std::vector<Ended> ended = processes.wait(30);
    SCOPED_TRACE(fmt::format("round {}, rank {} of {}", round, victim, run.world));
    expect_end(ended, {victim}, 128 + SIGKILL, victim == 0 ? 1 : 0,
               {fmt::format("rank {} on {}", victim, host_name()), "died"}, 60);
    for (const Ended& each : ended) slowest = std::max(slowest, each.seconds - (killed - processes.began()));
  }
  EXPECT_LT(slowest, within(5));
  test::measured(
      "R10", "50 of 50 deaths among 2 to 5 processes: every other one ended with exit 7, all after at most {:.2f} s",
      slowest);
}

TEST(ControlKill, StoppedRanksEndAllEachTime) {
  std::mt19937 random(2);
  constexpr double kLimit = 2;
  double slowest = 0;
  for (int round = 0; round < 20; ++round) {
    Course run;
    run.world = 2 + round % 3;
    run.steps = 1000;
    run.watchdog = kLimit;
    const Shared shared;
    run.under_way = shared.get();
    const auto victim = static_cast<int>(random() % static_cast<unsigned>(run.world));
    const int port = free_port();
    Processes processes;
    processes.start(run.world, [&](int rank) { return be_rank(run, rank, port); });
    ASSERT_TRUE(shared.reaches(run.world));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 500));
    const double stopped = steady_seconds();
    ::kill(processes.process(victim), SIGSTOP);
    const std::vector<Ended> ended = processes.wait(30);
    SCOPED_TRACE(fmt::format("round {}, rank {} of {}", round, victim, run.world));
    expect_end(ended, {victim}, 128 + SIGKILL, victim == 0 ? 1 : 0,
               {fmt::format("rank {} on {}", victim, host_name()), "it sends nothing"}, 60);
    for (const Ended& each : ended) slowest = std::max(slowest, each.seconds - (stopped - processes.began()));
  }
  EXPECT_LT(slowest, within(kLimit + 5));
  test::measured(
      "R11",
      "20 of 20 stopped ones of 2 to 4 processes: every other one ended with exit 7, all after at most {:.2f} s with "
      "a watchdog of {} s",
      slowest, kLimit);
}

}  // namespace
}  // namespace t6::dist
