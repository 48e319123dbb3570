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

namespace {

// Scopes of a device, timed when the profile ends: until then they would make the host wait.
struct DeviceSpan {
  const char* name;
  Work work;
  DeviceClock* clock;
  int from, to;
};
std::vector<DeviceSpan> device_spans;  // under the mutex

void add(const char* name, double seconds, const Work& work) {
  auto at = entries.find(std::string_view(name));
  if (at == entries.end()) at = entries.emplace(name, Entry{name}).first;
  Entry& entry = at->second;
  entry.seconds += seconds;
  entry.flops += work.flops;
  entry.bytes += work.bytes;
  ++entry.calls;
}

}  // namespace

void start() {
  const std::lock_guard lock(mutex);
  entries.clear();
  device_spans.clear();
  detail::active = true;
}

std::vector<Entry> stop() {
  detail::active = false;
  const std::lock_guard lock(mutex);
  for (const DeviceSpan& s : device_spans) add(s.name, s.clock->seconds(s.from, s.to), s.work);
  for (const DeviceSpan& s : device_spans) s.clock->forget();
  device_spans.clear();
  std::vector<Entry> all;
  for (auto& [name, entry] : entries) all.push_back(std::move(entry));
  entries.clear();
  std::stable_sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.seconds > b.seconds; });
  return all;
}

void Scope::begin(const char* name, const Work& work, DeviceClock* device) {
  name_ = name;
  work_ = work;
  device_ = device;
  if (device_ != nullptr) {
    from_ = device_->mark();
    return;
  }
  outer_ = std::exchange(innermost, this);
  started_ = std::chrono::steady_clock::now();
}

void Scope::end() {
  if (device_ != nullptr) {
    const int to = device_->mark();
    const std::lock_guard lock(mutex);
    device_spans.push_back({name_, work_, device_, from_, to});
    return;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  innermost = outer_;
  if (outer_ != nullptr) outer_->inner_ += seconds;
  const std::lock_guard lock(mutex);
  add(name_, std::max(0.0, seconds - inner_), work_);
}

}  // namespace t6::profile
