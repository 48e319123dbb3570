// How ranks find each other, and what is said when they do not.
#include "dist/rendezvous.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>

#include "dist/control.h"
#include "dist/processes.h"

namespace t6::dist {
namespace {

Meeting meeting(int rank, int world, int port, double timeout = 20) {
  return {{rank, world, rank, world}, {"127.0.0.1", port}, {}, "the test", "nonce", timeout};
}

// All ranks meet and pass a text round.
int meet_and_greet(const Meeting& meeting) {
  Control control(meeting.ranks, meet(meeting), {});
  for (int round = 0; round < 3; ++round) {
    const std::vector<std::string> texts =
        control.all_gather_text(fmt::format("{} of round {}", meeting.ranks.rank, round));
    if (static_cast<int>(texts.size()) != meeting.ranks.world) return 50;
    for (int rank = 0; rank < meeting.ranks.world; ++rank) {
      if (texts[static_cast<size_t>(rank)] != fmt::format("{} of round {}", rank, round)) return 51;
    }
  }
  // Texts of any length: several times what a frame takes, nothing, just a part of it.
  const auto long_text = [](int rank) {
    constexpr std::array<size_t, 4> kBytes{(size_t{3} << 20) + 5, 0, size_t{1} << 19, (size_t{1} << 20) + 1};
    return std::string(kBytes[static_cast<size_t>(rank) % kBytes.size()], static_cast<char>('a' + rank));
  };
  const std::vector<std::string> texts = control.all_gather_text(long_text(meeting.ranks.rank));
  for (int rank = 0; rank < meeting.ranks.world; ++rank) {
    if (texts[static_cast<size_t>(rank)] != long_text(rank)) return 52;
  }
  for (const Seat& seat : control.seats()) {
    if (seat.host != host_name() || seat.process <= 0) return 53;
  }
  control.goodbye();
  return 0;
}

TEST(Rendezvous, OneToEightProcessesMeetAndPassTexts) {
  for (int world = 1; world <= 8; ++world) {
    SCOPED_TRACE(world);
    const int port = free_port();
    Processes ranks;
    ranks.start(world, [&](int rank) { return meet_and_greet(meeting(rank, world, port)); });
    const std::vector<Ended> ended = ranks.wait(30);
    for (const Ended& each : ended) EXPECT_EQ(each.code, 0) << all_said(ended);
  }
}

TEST(Rendezvous, RankZeroMayComeLast) {
  const int port = free_port();
  Processes ranks;
  ranks.start(3, [&](int rank) {
    if (rank == 0) std::this_thread::sleep_for(std::chrono::milliseconds(700));
    return meet_and_greet(meeting(rank, 3, port));
  });
  for (const Ended& each : ranks.wait(30)) EXPECT_EQ(each.code, 0) << each.err;
}

TEST(Rendezvous, MissingRanksAreNamedByRankZeroAlone) {
  const int port = free_port();
  Processes ranks;
  ranks.start(3, [&](int rank) { return meet_and_greet(meeting(rank, 8, port, 3)); });
  const std::vector<Ended> ended = ranks.wait(20);
  for (const Ended& each : ended) EXPECT_EQ(each.code, 7);
  for (const char* part : {"ranks 3-7 of 8", "127.0.0.1:", "(address from the test)", "There are ranks 0-2 on "}) {
    EXPECT_TRUE(says(ended[0].err, part));
  }
  EXPECT_EQ(ended[1].err + ended[2].err, "");
  EXPECT_LT(ended[0].seconds, 15);
}

TEST(Rendezvous, NobodyAtTheAddressIsSaidByWhoLookedThere) {
  const int port = free_port();
  Processes ranks;
  ranks.start(1, [&](int) { return meet_and_greet(meeting(1, 2, port, 1)); });
  const std::vector<Ended> ended = ranks.wait(20);
  EXPECT_EQ(ended[0].code, 7);
  for (const char* part : {"rank 1 on ", "did not find rank 0 at 127.0.0.1:", "nobody listens there", "the test"}) {
    EXPECT_TRUE(says(ended[0].err, part));
  }
}

TEST(Rendezvous, ATakenPortIsSaidByRankZeroAndAllLeaveAtOnce) {
  const Socket taken = listen_at({"127.0.0.1", 0});
  Processes ranks;
  ranks.start(3, [&](int rank) { return meet_and_greet(meeting(rank, 3, taken.port())); });
  // A program that greets in another way.
  std::atomic<bool> ended_all = false;
  std::thread other([&] {
    std::vector<Socket> guests;  // stay: a connection that is closed might come to its end before the greeting is read
    while (!ended_all) {
      Socket guest = accept_from(taken);
      if (guest.open() && ::write(guest.descriptor(), "220 mail\r\n", 10) == 10) guests.push_back(std::move(guest));
      ::poll(nullptr, 0, 10);
    }
  });
  const std::vector<Ended> ended = ranks.wait(20);
  ended_all = true;
  other.join();
  for (const Ended& each : ended) {
    EXPECT_EQ(each.code, 2);
    EXPECT_LT(each.seconds, 18);  // the meeting allows 20
  }
  EXPECT_TRUE(says(ended[0].err, "is in use"));
  EXPECT_TRUE(says(ended[0].err, std::to_string(taken.port())));
  EXPECT_EQ(ended[1].err + ended[2].err, "");
}

TEST(Rendezvous, ASilentProgramAtTheAddressIsNoRankZero) {
  const Socket taken = listen_at({"127.0.0.1", 0});
  Processes ranks;
  ranks.start(1, [&](int) { return meet_and_greet(meeting(1, 2, taken.port())); });
  const std::vector<Ended> ended = ranks.wait(20);
  EXPECT_EQ(ended[0].code, 2);
  EXPECT_LT(ended[0].seconds, 18);  // the meeting allows 20
}

TEST(Rendezvous, RanksOfAnotherRunAreSentAway) {
  const int port = free_port();
  Processes ranks;
  ranks.start(3, [&](int process) {
    Meeting at = meeting(process % 2, 2, port);
    if (process == 1) at.nonce = "another";
    if (process == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // until the other one was sent away
      at = meeting(1, 2, port);
    }
    return meet_and_greet(at);
  });
  const std::vector<Ended> ended = ranks.wait(20);
  EXPECT_EQ(ended[0].code, 0) << ended[0].err;
  EXPECT_EQ(ended[2].code, 0) << ended[2].err;
  // Of two runs that share a port of one host, rank 0 of the second says so.
  EXPECT_EQ(ended[1].code, 2);
  EXPECT_EQ(ended[1].err, "");
}

struct Misfit {
  const char* what;
  int rank, world;
  const char* says;
};

TEST(Rendezvous, RanksThatDoNotFitEndAllWithOneMessage) {
  for (const Misfit& misfit : {Misfit{"two of one rank", 1, 3, "two processes say they are rank 1"},
                               Misfit{"another world", 2, 4, "was started for 4 ranks"},
                               Misfit{"a second rank past the end", 3, 3, "says it is rank 3 of 3"}}) {
    SCOPED_TRACE(misfit.what);
    const int port = free_port();
    Processes ranks;
    ranks.start(3, [&](int process) {
      Meeting at = meeting(process, 3, port);
      if (process == 2) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1000));  // until the others are there
        at.ranks.rank = misfit.rank;
        at.ranks.world = misfit.world;
      }
      return meet_and_greet(at);
    });
    const std::vector<Ended> ended = ranks.wait(20);
    for (const Ended& each : ended) {
      EXPECT_EQ(each.code, 2);
      EXPECT_LT(each.seconds, 10);  // the meeting allows 20
    }
    EXPECT_TRUE(says(ended[0].err, misfit.says));
    EXPECT_EQ(ended[1].err + ended[2].err, "");
  }
}

// Strangers before, beside and instead of the handshake.
TEST(Rendezvous, GarbageIsIgnored) {
  const int port = free_port();
  Processes ranks;
  const auto come = [&](int rank) { return meet_and_greet(meeting(rank, 3, port)); };
  ranks.start(2, come);
  const std::string magic = "T6C1";
  const auto frame = [&](uint8_t kind, uint32_t length, const std::string& body) {
    return magic + static_cast<char>(kind) + std::string(reinterpret_cast<const char*>(&length), 4) + body;
  };
  const std::vector<std::string> garbage{
      "GET / HTTP/1.1\r\n\r\n",
      std::string(100000, '\xff'),
      "",
      "T6",
      frame(static_cast<uint8_t>(Kind::hello), 0xffffffff, "x"),
      frame(static_cast<uint8_t>(Kind::hello), 3, "abc"),
      frame(static_cast<uint8_t>(Kind::hello), 60000, "abc"),
      frame(static_cast<uint8_t>(Kind::welcome), 0, ""),
      frame(static_cast<uint8_t>(Kind::hello), 32, std::string(32, '\x7f')),
      frame(static_cast<uint8_t>(Kind::hello), 16, std::string("\1\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 16)),
  };
  std::vector<Socket> strangers;
  const double until = steady_seconds() + 15;
  for (; strangers.empty() && steady_seconds() < until; ::poll(nullptr, 0, 10)) {
    std::string why;
    for (const std::string& bytes : garbage) {
      Socket socket = connect_to({"127.0.0.1", port}, 1, why);
      if (!socket.open()) break;
      if (::send(socket.descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) continue;
      strangers.push_back(std::move(socket));
    }
    for (int i = 0; i < 300 && !strangers.empty(); ++i) strangers.push_back(connect_to({"127.0.0.1", port}, 1, why));
  }
  EXPECT_GE(strangers.size(), 300U);
  // The last rank comes when all strangers are there, and were looked at.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  ranks.start(1, come);
  const std::vector<Ended> ended = ranks.wait(20);
  for (const Ended& each : ended) {
    EXPECT_EQ(each.code, 0) << each.err;
    EXPECT_LT(each.seconds, 15);  // since the last one came
  }
}

TEST(Rendezvous, ARankThatDiesBeforeAllAreThereMayComeAgain) {
  const int port = free_port();
  Processes ranks;
  ranks.start(2, [&](int process) {
    if (process == 0) return meet_and_greet(meeting(0, 3, port));
    std::thread([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(1000));  // until rank 0 knows it
      ::_exit(42);
    }).detach();
    return meet_and_greet(meeting(2, 3, port));
  });
  siginfo_t died{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(ranks.process(1)), &died, WEXITED | WNOWAIT), 0);
  ranks.start(2, [&](int process) { return meet_and_greet(meeting(process == 2 ? 2 : 1, 3, port)); });
  const std::vector<Ended> ended = ranks.wait(20);
  EXPECT_EQ(ended[0].code, 0) << ended[0].err;
  EXPECT_EQ(ended[1].code, 42);
  EXPECT_EQ(ended[2].code, 0) << ended[2].err;
  EXPECT_EQ(ended[3].code, 0) << ended[3].err;
}

TEST(Rendezvous, RanksAreListedInRanges) {
  EXPECT_EQ(list_ranks({2}), "rank 2");
  EXPECT_EQ(list_ranks({0, 1, 3, 4, 5, 9}), "ranks 0, 1, 3-5, 9");
}

}  // namespace
}  // namespace t6::dist
