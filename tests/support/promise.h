// The promises of docs/reliability.md: how often a test repeats itself, and the figures that scripts/reliability.sh
// collects. Which tests measure which promise stands in tests/reliability/promises.txt.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace t6::test {

// T6_RELIABILITY=full asks for the full figures; the ordinary suite takes the quick ones.
inline bool full_figures() {
  const char* value = std::getenv("T6_RELIABILITY");
  return value != nullptr && std::string(value) == "full";
}
inline int figure(int quick, int full) {
  return full_figures() ? full : quick;
}

// Says what was measured for promise "R2", once all of it is. A test that failed has measured nothing.
template <class... Args>
void measured(const char* promise, fmt::format_string<Args...> format, Args&&... args) {
  if (::testing::Test::HasFailure()) return;
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  ::testing::Test::RecordProperty(promise, text);
  std::printf("[promise] %s %s\n", promise, text.c_str());
  std::fflush(stdout);
}

}  // namespace t6::test
