// The control channel: texts between ranks beside the communicator, and a watch over who is alive and goes on.
//
// A thread of its own keeps the channel on each rank. It tells rank 0 every second how far this rank is, and ends the
// process when the run cannot go on, with exit code 7, or where a rank said why with the code of its error:
//   a rank dies      its connection closes without goodbye(): all end at once
//   a rank hangs     the slowest rank made no progress() for longer than the watchdog's limit: all end within the limit
//                    and a few seconds. Every rank counts by its own calls, so the limit must exceed the longest time
//                    between two of them that any rank takes in good health.
//   a host is lost   it answers nothing for kUnreachableSeconds: all that can still be reached end, on either side
//   rank 0 is gone   the same, found by the others
// One message on one rank's standard error (rank 0; the lowest living one where rank 0 is gone) names rank, host, step
// and cause as far as it is known. Ranks that hang so that they cannot end themselves are killed by those of their
// host. A process, or a whole job, that was stopped and goes on starts counting anew.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "dist/rendezvous.h"

namespace t6::dist {

// What the channel notices, for tests that have it overlook one.
enum class Sign : uint8_t { report, closure, hang, silence, failure };

struct ControlOptions {
  double watchdog = 0;                 // seconds; 0: hangs are not looked for
  double heartbeat = 1;                // seconds between two reports; a quarter of the watchdog if that is less
  std::function<bool(Sign)> overlook;  // tests: true makes the thread miss it
};

class Control {
 public:
  // After meet(). One rank needs no star but has a watchdog all the same.
  Control(const Ranks& ranks, Star star, ControlOptions options);
  // Without goodbye() the other ranks take it for a death.
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // The text of every rank, in their order, of any length. All call it in the same order. Waits for all.
  std::vector<std::string> all_gather_text(std::string_view text);

  // This rank came to `phase` of `step`. Cheap (a few stores): to be called several times a step, at the same places on
  // all ranks, by one thread. `phase` is a literal: it must live on, and reads as what is done there: "backward".
  void progress(int64_t step, const char* phase) noexcept;
  // In this phase it begins to wait for all other ranks, which is a place behind the phase's own, or has done so. As
  // often on all ranks.
  void waits(bool begins) noexcept;

  // Before this rank alone ends by an error: has it said, with rank, host and step, and all others ended with its code.
  // True when it is said (throw SaidElsewhere then), false when this rank is the only one, or rank 0 is gone, and must
  // say it itself. Errors that all ranks meet alike are no case for it: rank 0 says them, then all goodbye().
  bool say_why(ExitCode code, std::string_view text) noexcept;

  // Says an error as main would, now: on standard error and in the log's files.
  static void say(const std::string& text);

  // The run of this rank is at its end. Waits until all ranks say so; after it nothing is watched and ranks may go.
  void goodbye();

  // Looks after the communicator, too: what `failure` says ends the run ("" while all is well; asked every second by
  // the thread), and `abort` is called before the thread ends the process, and gets a second.
  void watch_over(std::function<std::string()> failure, std::function<void()> abort);

  const std::vector<Seat>& seats() const;  // by rank

 private:
  class Keeper;
  std::unique_ptr<Keeper> keeper_;
};

}  // namespace t6::dist
