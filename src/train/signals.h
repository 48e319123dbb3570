// Signals that ask a run to stop: SIGINT, SIGTERM, SIGUSR1.
#pragma once

#include <future>
#include <thread>

namespace t6::train {

// While alive, the first signal only sets a flag, for the loop to finish its step, save and exit with 128 + n; a second
// one ends the process at once with that code. One object at a time, made before the threads that compute.
//
// They are taken by a thread of their own: products of oneDNN use the stack pointer for other things, and a handler
// that ran on top of them would write into their data.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int received() const;  // the signal's number, or 0

 private:
  std::promise<void> end_;
  std::thread taker_;
};

}  // namespace t6::train
