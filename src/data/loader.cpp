#include "data/loader.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace t6::data {

void read_windows(const ShardSet& shards, std::span<const Window> windows, uint64_t window, std::span<int32_t> tokens,
                  std::span<int32_t> targets) {
  T6_CHECK(tokens.size() == windows.size() * window && targets.size() == tokens.size(),
           "[read_windows] expected {} tokens and targets, got {} and {}", windows.size() * window, tokens.size(),
           targets.size());
  std::vector<int32_t> row(window + 1);
  for (size_t b = 0; b < windows.size(); ++b) {
    shards[windows[b].shard].read(row, windows[b].offset);
    std::copy_n(row.begin(), window, tokens.begin() + static_cast<ptrdiff_t>(b * window));
    std::copy_n(row.begin() + 1, window, targets.begin() + static_cast<ptrdiff_t>(b * window));
  }
}

Loader::Loader(const ShardSet& shards, Sampler sampler, BatchPlan plan, uint64_t first_step, TokenHash consumed,
               LoaderOptions options)
    : shards_(shards), sampler_(std::move(sampler)), plan_(plan), options_(options), consumed_(consumed) {
  plan_.check();
  T6_CHECK(options_.depth > 0 && options_.threads > 0, "[Loader] expected a depth and threads of at least one");
  // One more than the depth: the batch handed out last is still in use.
  slots_.resize(options_.depth + 1);
  for (Slot& slot : slots_) {
    slot.batch.tokens.resize(plan_.micro_batch * sampler_.window());
    slot.batch.targets.resize(plan_.micro_batch * sampler_.window());
  }
  next_ = claimed_ = released_ = first_step * plan_.micro_steps();
  for (uint32_t i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { work(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  slot_free_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Loader::work() {
  std::vector<int32_t> row(sampler_.window() + 1);
  while (true) {
    std::unique_lock lock(mutex_);
    slot_free_.wait(lock, [&] { return stopping_ || claimed_ < released_ + slots_.size(); });
    if (stopping_) return;
    const uint64_t number = claimed_++;
    Slot& slot = slots_[number % slots_.size()];
    slot.ready = false;
    lock.unlock();

    std::exception_ptr error;
    slot.batch.step = number / plan_.micro_steps();
    slot.batch.micro_step = number % plan_.micro_steps();
    try {
      fill(slot.batch, row);
    } catch (...) {
      error = std::current_exception();
    }

    lock.lock();
    slot.error = error;
    slot.ready = true;
    lock.unlock();
    slot_ready_.notify_one();
    // Later batches will never be asked for.
    if (error) return;
  }
}

void Loader::fill(Batch& batch, std::vector<int32_t>& row) const {
  const uint64_t window = sampler_.window();
  const uint64_t first = plan_.first_row(batch.micro_step);
  batch.hash = {};
  for (uint64_t b = 0; b < plan_.micro_batch; ++b) {
    const Window where = sampler_.row(plan_, batch.step, first + b);
    shards_[where.shard].read(row, where.offset);
    batch.hash.add_row(batch.step * plan_.global_batch + first + b, row);
    std::copy_n(row.begin(), window, batch.tokens.begin() + static_cast<ptrdiff_t>(b * window));
    std::copy_n(row.begin() + 1, window, batch.targets.begin() + static_cast<ptrdiff_t>(b * window));
  }
}

const Batch& Loader::next() {
  std::unique_lock lock(mutex_);
  // Only now may the batch of the call before be overwritten.
  released_ = next_;
  slot_free_.notify_all();
  Slot& slot = slots_[next_ % slots_.size()];
  slot_ready_.wait(lock, [&] { return slot.ready; });
  if (slot.error) std::rethrow_exception(slot.error);
  ++next_;
  slot.ready = false;
  consumed_.add(slot.batch.hash);
  return slot.batch;
}

}  // namespace t6::data
