#include "train/tasks/shots.h"

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"

namespace t6::train {
namespace {

// The candidates in the order in which they are taken, until there are enough.
std::vector<size_t> drawn(uint64_t seed, TaskName task, size_t item, const std::vector<size_t>& candidates,
                          size_t count) {
  constexpr uint64_t kItemStride = uint64_t{1} << 24;  // numbers an item may use
  const Philox rng(seed, RngPurpose::sample, static_cast<uint64_t>(task));
  // The first `count` of a shuffle by exchanges.
  std::vector<size_t> order = candidates;
  for (size_t i = 0; i < count; ++i) {
    const size_t left = order.size() - i;
    std::swap(order[i], order[i + static_cast<size_t>(rng.below(item * kItemStride + i, left))]);
  }
  order.resize(count);
  return order;
}

}  // namespace

std::string before_question(TaskName task, std::span<const Question> questions, size_t item,
                            std::span<const Question> pool, int64_t shots, uint64_t seed, const std::string& source) {
  const Question& asked = questions[item];
  std::string text = asked.preamble;
  if (shots == 0) return text;
  const bool own = pool.empty();
  const std::span<const Question> from = own ? questions : pool;
  std::vector<size_t> candidates;
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i].subject != asked.subject || (own && (i == item || from[i].prompts == asked.prompts))) continue;
    candidates.push_back(i);
  }
  const auto count = static_cast<size_t>(shots);
  if (candidates.size() < count) {
    fail(ExitCode::data, "{}: expected {} other items{} as examples for item {}, got {}; ask for fewer --shots", source,
         shots, asked.subject.empty() ? "" : fmt::format(" of the subject {}", asked.subject), item, candidates.size());
  }
  if (task == TaskName::mmlu && !own) {
    candidates.resize(count);
  } else {
    candidates = drawn(seed, task, item, candidates, count);
  }
  for (const size_t i : candidates) text += from[i].example;
  return text;
}

}  // namespace t6::train
