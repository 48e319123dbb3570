#include "train/signals.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>

namespace t6::train {
namespace {

constexpr std::array kSignals{SIGINT, SIGTERM, SIGUSR1};
// Any thread may be the one that takes a signal.
std::atomic<int> stop_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free);
std::array<struct sigaction, kSignals.size()> previous;
sigset_t previous_mask;

extern "C" void on_stop_signal(int number) {
  int none = 0;
  if (!stop_signal.compare_exchange_strong(none, number)) _exit(128 + number);
}

}  // namespace

StopSignals::StopSignals() {
  stop_signal = 0;
  struct sigaction action {};
  action.sa_handler = &on_stop_signal;
  action.sa_flags = SA_RESTART;  // reads and writes in progress go on
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &previous[i]);
  sigset_t ours;
  sigemptyset(&ours);
  for (const int signal : kSignals) sigaddset(&ours, signal);
  std::promise<void> ready;
  taker_ = std::thread([&ready, ours, end = end_.get_future()] {
    ::pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
    ready.set_value();
    end.wait();
  });
  ready.get_future().wait();
  // Threads that this one starts block them, too.
  ::pthread_sigmask(SIG_BLOCK, &ours, &previous_mask);
}

StopSignals::~StopSignals() {
  end_.set_value();
  taker_.join();
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous[i], nullptr);
  ::pthread_sigmask(SIG_SETMASK, &previous_mask, nullptr);
}

int StopSignals::received() const {
  return stop_signal;
}

}  // namespace t6::train
