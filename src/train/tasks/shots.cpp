#include "train/tasks/shots.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/io.h"
#include "base/printable.h"
#include "base/rng.h"

namespace t6::train {
namespace {

// The same for questions of one subject with the same prompts.
std::string key_of(const Question& question) {
  std::string all = question.subject;
  for (const Prompt& prompt : question.prompts) {
    all += fmt::format("\n{} {} {}{}", prompt.context.size(), prompt.continuation.size(), prompt.context,
                       prompt.continuation);
  }
  return io::hash_bytes(std::as_bytes(std::span(all)));
}

// The first `count` numbers of a shuffle by exchanges of those below `total`, in time and memory of the count.
std::vector<size_t> drawn(uint64_t seed, TaskName task, size_t item, size_t total, size_t count) {
  constexpr uint64_t kItemStride = uint64_t{1} << 24;  // numbers an item may use
  const Philox rng(seed, RngPurpose::sample, static_cast<uint64_t>(task));
  std::unordered_map<size_t, size_t> moved;  // what stands at places that no longer hold their own number
  const auto at = [&](size_t place) {
    const auto found = moved.find(place);
    return found == moved.end() ? place : found->second;
  };
  std::vector<size_t> order;
  for (size_t i = 0; i < count; ++i) {
    const size_t other = i + static_cast<size_t>(rng.below(item * kItemStride + i, total - i));
    order.push_back(at(other));
    moved[other] = at(i);
  }
  return order;
}

// The number `n`, from 0, of those that are not in `left_out`, which rises.
size_t nth_outside(size_t n, std::span<const size_t> left_out) {
  size_t begin = 0, end = left_out.size();  // how many of them are below the answer
  while (begin < end) {
    const size_t middle = (begin + end) / 2;
    if (left_out[middle] - middle > n) {
      end = middle;
    } else {
      begin = middle + 1;
    }
  }
  return n + begin;
}

}  // namespace

Shots::Shots(TaskName task, std::span<const Question> questions, std::span<const Question> pool, int64_t shots,
             uint64_t seed, std::string source)
    : task_(task),
      questions_(questions),
      from_(pool.empty() ? questions : pool),
      own_(pool.empty()),
      shots_(static_cast<size_t>(shots)),
      seed_(seed),
      source_(std::move(source)) {
  if (shots_ == 0) return;
  for (size_t i = 0; i < from_.size(); ++i) {
    std::vector<size_t>& same = by_subject_[from_[i].subject];
    if (own_) {
      alike_.push_back(key_of(from_[i]));
      twins_[alike_.back()].push_back(same.size());
    }
    same.push_back(i);
  }
}

std::string Shots::before(size_t item) const {
  const Question& asked = questions_[item];
  std::string text = asked.preamble;
  if (shots_ == 0) return text;
  const auto found = by_subject_.find(asked.subject);
  const std::span<const size_t> same = found == by_subject_.end() ? std::span<const size_t>() : found->second;
  const std::span<const size_t> left_out =
      own_ ? std::span<const size_t>(twins_.at(alike_[item])) : std::span<const size_t>();
  const size_t candidates = same.size() - left_out.size();
  if (candidates < shots_) {
    fail(ExitCode::data, "{}: expected {} other items{} as examples for item {}, got {}; ask for fewer --shots",
         source_, shots_, asked.subject.empty() ? "" : fmt::format(" of the subject {}", printable(asked.subject)),
         item, candidates);
  }
  const bool first_ones = task_ == TaskName::mmlu && !own_;
  const std::vector<size_t> order = first_ones ? std::vector<size_t>() : drawn(seed_, task_, item, candidates, shots_);
  for (size_t i = 0; i < shots_; ++i) {
    text += from_[same[first_ones ? i : nth_outside(order[i], left_out)]].example;
  }
  return text;
}

}  // namespace t6::train
