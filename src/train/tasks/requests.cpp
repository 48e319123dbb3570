#include "train/tasks/requests.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/printable.h"
#include "train/tasks/prompts.h"

namespace t6::train {
namespace {

std::vector<int32_t> ids_of(const data::Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  for (const uint32_t id : tokenizer.encode(text)) ids.push_back(static_cast<int32_t>(id));
  return ids;
}

}  // namespace

Encoded encode(const data::Tokenizer& tokenizer, const Prompt& prompt, const std::string& where) {
  const std::string_view context = strip_right(prompt.context);
  const std::string_view spaces = std::string_view(prompt.context).substr(context.size());
  Encoded encoded;
  const std::vector<int32_t> whole = ids_of(tokenizer, prompt.context + prompt.continuation);
  const std::vector<int32_t> first = ids_of(tokenizer, context);
  const size_t cut = std::min(first.size(), whole.size());
  encoded.continuation.assign(whole.begin() + static_cast<ptrdiff_t>(cut), whole.end());
  encoded.context = first;
  if (context.empty()) {
    encoded.context = {static_cast<int32_t>(tokenizer.end_of_text())};
    encoded.continuation = ids_of(tokenizer, std::string(spaces) + prompt.continuation);
  }
  if (encoded.continuation.empty()) {
    fail(ExitCode::data, "{}: no token is left to measure of \"{}\" behind its context", where,
         printable(prompt.continuation));
  }
  return encoded;
}

ItemSequences sequences_of(const std::vector<Encoded>& prompts, int64_t window, const std::string& where) {
  ItemSequences item;
  const auto longest = static_cast<size_t>(window);
  for (const Encoded& prompt : prompts) {
    if (prompt.continuation.size() > longest) {
      fail(ExitCode::data,
           "{}: an answer has {} tokens, the model sees {} at a time (model.context); leave the task out, take a model "
           "with more context, or score the items before this one alone (limit)",
           where, prompt.continuation.size(), window);
    }
    std::vector<int32_t> input = prompt.context;
    input.insert(input.end(), prompt.continuation.begin(), prompt.continuation.end() - 1);
    if (input.size() > longest) input.erase(input.begin(), input.end() - static_cast<ptrdiff_t>(longest));
    size_t at = 0;
    while (at < item.sequences.size() &&
           (item.sequences[at].input != input || item.sequences[at].scored() != prompt.continuation.size())) {
      ++at;
    }
    if (at == item.sequences.size()) item.sequences.push_back({std::move(input), {}});
    item.prompts.push_back({at, item.sequences[at].targets.size()});
    item.sequences[at].targets.push_back(prompt.continuation);
  }
  return item;
}

std::vector<std::vector<size_t>> batches_of(std::span<const size_t> lengths, size_t tokens, size_t multiple) {
  std::vector<size_t> order(lengths.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<size_t>> batches;
  for (size_t at = 0; at < order.size();) {
    const size_t length = (lengths[order[at]] + multiple - 1) / multiple * multiple;
    const size_t count = std::min(std::max<size_t>(1, tokens / std::max<size_t>(1, length)), order.size() - at);
    batches.emplace_back(order.begin() + static_cast<ptrdiff_t>(at),
                         order.begin() + static_cast<ptrdiff_t>(at + count));
    at += count;
  }
  return batches;
}

}  // namespace t6::train
