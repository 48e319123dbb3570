// Who of the ranks has come how far, and who no longer goes on. Pure bookkeeping: rank 0 feeds it, with its clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dist/rendezvous.h"

namespace t6::dist {

// What a rank last said of itself.
struct Report {
  int64_t step = -1;  // -1: before the first
  int64_t calls = 0;  // of progress() and waits() in this step: how far in it
  std::string phase;  // what it does
  double age = 0;     // seconds since it came there
  bool same_place(const Report& other) const { return step == other.step && calls == other.calls; }
};
std::string describe(const Report& report);  // "step 12, backward"

class Watch {
 public:
  Watch(std::vector<Seat> seats, double now);

  void on_report(int rank, const Report& report, double now);
  void on_goodbye(int rank);  // it ended well and is watched no more
  // Nobody was heard for so long because the one who listens stood still itself.
  void forgive(double seconds);

  bool gone(int rank) const { return state(rank).gone; }
  bool all_gone() const;
  const Report& report(int rank) const { return state(rank).report; }

  struct Verdict {
    std::string text;         // empty: all is well
    std::vector<int> silent;  // ranks that send nothing at all: they cannot end themselves
  };
  // A hang: the slowest place of all ranks is the same, and nobody came to it, for `limit` seconds. Ranks that wait for
  // a slow one are no hang while it goes on. Who sends nothing for more than `silence` seconds is taken for stopped.
  // To be asked regularly: it remembers when the slowest place last changed.
  Verdict hang(double limit, double silence, double now);

 private:
  struct State {
    Report report;
    double progress = 0;  // when it came where it is
    double heard = 0;     // when it last said anything
    bool gone = false;
  };
  const State& state(int rank) const { return states_[static_cast<size_t>(rank)]; }
  State& state(int rank) { return states_[static_cast<size_t>(rank)]; }
  // A line for each of `hung`, who are either all `silent` or none of them; then, each on a line, the others.
  std::string text_of_hung(const std::vector<int>& hung, bool silent, double limit, double now) const;
  std::string text_of_others(const std::vector<int>& hung, double now) const;

  std::vector<Seat> seats_;
  std::vector<State> states_;
  Report floor_;  // the slowest place when hang() was last asked
  double floor_since_;
};

}  // namespace t6::dist
