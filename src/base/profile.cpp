#include "base/profile.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

namespace t6::profile {
namespace {

std::mutex mutex;
std::map<std::string, Entry, std::less<>> entries;  // under the mutex
thread_local Scope* innermost = nullptr;

}  // namespace

namespace detail {
std::atomic<bool> active{false};
}

void start() {
  const std::lock_guard lock(mutex);
  entries.clear();
  detail::active = true;
}

std::vector<Entry> stop() {
  detail::active = false;
  const std::lock_guard lock(mutex);
  std::vector<Entry> all;
  for (auto& [name, entry] : entries) all.push_back(std::move(entry));
  entries.clear();
  std::stable_sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.seconds > b.seconds; });
  return all;
}

void Scope::begin(const char* name, double flops) {
  name_ = name;
  flops_ = flops;
  outer_ = std::exchange(innermost, this);
  started_ = std::chrono::steady_clock::now();
}

void Scope::end() {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  innermost = outer_;
  if (outer_ != nullptr) outer_->inner_ += seconds;
  const std::lock_guard lock(mutex);
  auto at = entries.find(std::string_view(name_));
  if (at == entries.end()) at = entries.emplace(name_, Entry{name_}).first;
  Entry& entry = at->second;
  entry.seconds += std::max(0.0, seconds - inner_);
  entry.flops += flops_;
  ++entry.calls;
}

}  // namespace t6::profile
