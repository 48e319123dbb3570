// Where the time of a computation goes: seconds and FLOPs by name, from scopes around its parts.
//
// Time is exclusive: what an inner scope takes is not counted in the outer one of the same thread. Off, a scope costs
// one relaxed load. Meant for work that is done when the scope ends: on a GPU it would measure launches.
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
  // `name` is a literal. flops: of the work inside, as far as it is known.
  explicit Scope(const char* name, double flops = 0) {
    if (active()) begin(name, flops);
  }
  ~Scope() {
    if (name_ != nullptr) end();
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  void begin(const char* name, double flops);
  void end();

  const char* name_ = nullptr;
  double flops_ = 0;
  double inner_ = 0;  // seconds of scopes inside
  Scope* outer_ = nullptr;
  std::chrono::steady_clock::time_point started_;
};

}  // namespace t6::profile
