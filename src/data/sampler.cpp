#include "data/sampler.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/rng.h"

namespace t6::data {
namespace {

// Enough that a test of tiny permutations cannot tell them from uniform ones; the cost is nanoseconds a row.
constexpr uint64_t kFeistelRounds = 8;

}  // namespace

void BatchPlan::check() const {
  if (global_batch == 0 || micro_batch == 0 || world == 0 || rank >= world ||
      micro_batch > std::numeric_limits<uint64_t>::max() / world || global_batch % (micro_batch * world) != 0) {
    fail(ExitCode::usage,
         "the global batch of {} windows cannot be divided among {} ranks in micro-batches of {} (rank {}); make it a "
         "multiple "
         "of micro-batch x ranks",
         global_batch, world, micro_batch, rank);
  }
}

Permutation::Permutation(uint64_t n, uint64_t seed, uint64_t epoch)
    : n_(n), seed_(seed), epoch_(epoch), half_bits_((std::bit_width(n - 1) + 1) / 2) {
  T6_CHECK(n > 0, "[Permutation] expected n > 0");
}

uint64_t Permutation::operator()(uint64_t index) const {
  T6_CHECK(index < n_, "[Permutation] expected an index below {}, got {}", n_, index);
  if (n_ == 1) return 0;
  const Philox mix(seed_, RngPurpose::shuffle, epoch_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;  // half_bits_ <= 32
  do {
    uint64_t left = index >> half_bits_, right = index & mask;
    for (uint64_t round = 0; round < kFeistelRounds; ++round) {
      left ^= mix.bits(round << 32 | right) & mask;
      std::swap(left, right);
    }
    index = left << half_bits_ | right;
  } while (index >= n_);
  return index;
}

Sampler::Sampler(SampleOrder order, uint64_t seed, uint64_t window, std::vector<uint64_t> shard_tokens)
    : order_(order), seed_(seed), window_(window), shard_tokens_(std::move(shard_tokens)) {
  T6_CHECK(window_ > 0, "[Sampler] expected a window of at least one token");
  uint64_t longest = 0;
  first_window_.push_back(0);
  for (size_t shard = 0; shard < shard_tokens_.size(); ++shard) {
    const uint64_t tokens = shard_tokens_[shard];
    const uint64_t windows = tokens == 0 ? 0 : (tokens - 1) / window_;
    if (windows > 0) usable_shards_.push_back(static_cast<uint32_t>(shard));
    first_window_.push_back(first_window_.back() + windows);
    longest = std::max(longest, tokens);
  }
  if (usable_shards_.empty()) {
    fail(ExitCode::data,
         "no shard holds one window: expected at least {} tokens (sequence length + 1), the longest of {} shards has "
         "{}; use "
         "more text or a shorter sequence",
         window_ + 1, shard_tokens_.size(), longest);
  }
}

Window Sampler::window_at(uint64_t index) const {
  T6_CHECK(index < windows_per_epoch(), "[Sampler] expected a window below {}, got {}", windows_per_epoch(), index);
  const auto after = std::upper_bound(first_window_.begin(), first_window_.end(), index);
  const auto shard = static_cast<size_t>(after - first_window_.begin()) - 1;
  return {static_cast<uint32_t>(shard), (index - first_window_[shard]) * window_};
}

Window Sampler::row(const BatchPlan& plan, uint64_t step, uint64_t row) const {
  T6_CHECK(row < plan.global_batch, "[Sampler] expected a row below {}, got {}", plan.global_batch, row);
  if (order_ == SampleOrder::shuffled) {
    const uint64_t position = step * plan.global_batch + row;
    const uint64_t epoch = position / windows_per_epoch();
    return window_at(Permutation(windows_per_epoch(), seed_, epoch)(position % windows_per_epoch()));
  }
  // Draw 0 of a micro-batch is its shard, draw i + 1 the start of its row i.
  const Philox draw(seed_, RngPurpose::window, step);
  const uint64_t first_draw = row / plan.micro_batch << 32;
  const uint32_t shard = usable_shards_[draw.below(first_draw, usable_shards_.size())];
  const uint64_t starts = shard_tokens_[shard] - window_;
  return {shard, draw.below(first_draw + 1 + row % plan.micro_batch, starts)};
}

std::vector<Window> Sampler::micro_batch(const BatchPlan& plan, uint64_t step, uint64_t micro_step) const {
  T6_CHECK(micro_step < plan.micro_steps(), "[Sampler] expected a micro-step below {}, got {}", plan.micro_steps(),
           micro_step);
  std::vector<Window> windows(plan.micro_batch);
  for (uint64_t i = 0; i < windows.size(); ++i) windows[i] = row(plan, step, plan.first_row(micro_step) + i);
  return windows;
}

std::vector<Window> fixed_validation_windows(std::vector<uint64_t> shard_tokens, uint64_t window, uint64_t count) {
  const Sampler list(SampleOrder::shuffled, 0, window, std::move(shard_tokens));
  const uint64_t total = list.windows_per_epoch();
  const uint64_t n = std::min(count, total);
  std::vector<Window> windows(n);
  // floor(i * total / n) without the overflow of the product.
  for (uint64_t i = 0; i < n; ++i) windows[i] = list.window_at(total / n * i + total % n * i / n);
  return windows;
}

}  // namespace t6::data
