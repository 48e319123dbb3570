// Where the time of a computation goes: seconds and FLOPs by name, from scopes around its parts.
//
// Time is exclusive: what an inner scope takes is not counted in the outer one of the same thread. Off, a scope costs
// one relaxed load. A scope measures the host's clock, for work that is done when it ends, or marks of a device that
// does its work later.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace t6::profile {

struct Entry {
  std::string name;
  double seconds = 0;  // exclusive
  uint64_t calls = 0;
  double flops = 0;
  double bytes = 0;  // least traffic to memory, where it is known
};

// What a scope is expected to cost, as far as it is known.
struct Work {
  double flops = 0;
  double bytes = 0;
};

// A device with an order of work of its own. Used by one thread.
class DeviceClock {
 public:
  virtual ~DeviceClock() = default;
  virtual int mark() = 0;                        // a point in the order of work
  virtual double seconds(int from, int to) = 0;  // between two of them; waits until the second is reached
  virtual void forget() = 0;                     // all marks
};

// Begins with nothing counted; scopes of all threads count from now on.
void start();
// Ends it: what was counted, most seconds first.
std::vector<Entry> stop();

namespace detail {
extern std::atomic<bool> active;
}
inline bool active() {
  return detail::active.load(std::memory_order_relaxed);
}

class Scope {
 public:
  // `name` is a literal. With a device clock, which then holds no other scopes inside, its time is measured.
  explicit Scope(const char* name, const Work& work = {}, DeviceClock* device = nullptr) {
    if (active()) begin(name, work, device);
  }
  ~Scope() {
    if (name_ != nullptr) end();
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  void begin(const char* name, const Work& work, DeviceClock* device);
  void end();

  const char* name_ = nullptr;
  Work work_;
  DeviceClock* device_ = nullptr;
  int from_ = 0;      // mark of the device
  double inner_ = 0;  // seconds of scopes inside
  Scope* outer_ = nullptr;
  std::chrono::steady_clock::time_point started_;
};

}  // namespace t6::profile
