// The two clocks, in seconds.
#pragma once

#include <chrono>

namespace t6 {

// For durations: never set back, counted from no particular instant.
inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// For dates: since 1970-01-01 UTC, as the system's clock is set.
inline double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace t6
