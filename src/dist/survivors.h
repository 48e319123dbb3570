// Who speaks when rank 0 is gone: the lowest rank that lives. Each asks those below it whether they live, at the ports
// that the table of ranks names, and answers those above.
#pragma once

#include <poll.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "dist/rendezvous.h"

namespace t6::dist {

// Used by one thread. `seats` must outlive it.
class Survivors {
 public:
  // `listener` is where others ask; it is not open on rank 0. `found` is called, by another thread, when search() ends.
  Survivors(const std::vector<Seat>& seats, int rank, Socket listener, std::function<void()> found);
  ~Survivors();  // waits for the search
  Survivors(const Survivors&) = delete;
  Survivors& operator=(const Survivors&) = delete;

  void wait_for(std::vector<pollfd>& waited) const;  // adds what answer() is to be called for
  void answer();

  enum class Speaker : uint8_t { unknown, self, other };
  void search();  // once; takes seconds
  Speaker speaker() const { return speaker_; }

 private:
  const std::vector<Seat>& seats_;
  const int rank_;
  Socket listener_;
  const std::function<void()> found_;
  std::vector<Link> guests_;  // who ask whether this rank lives
  std::thread prober_;
  std::atomic<Speaker> speaker_{Speaker::unknown};
};

}  // namespace t6::dist
