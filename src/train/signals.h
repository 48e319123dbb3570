// Signals that ask a run to stop: SIGINT, SIGTERM, SIGUSR1.
#pragma once

namespace t6::train {

// While alive, the first signal only sets a flag, for the loop to finish its step, save and exit with 128 + n; a second
// one ends the process at once with that code. One object at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int received() const;  // the signal's number, or 0
};

}  // namespace t6::train
