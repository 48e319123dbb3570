#include "model/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace t6 {
namespace {

// Ids by falling logit, cut to top_k.
std::vector<int32_t> likeliest(std::span<const float> logits, int64_t vocabulary, int64_t top_k) {
  std::vector<int32_t> ids(static_cast<size_t>(vocabulary));
  std::iota(ids.begin(), ids.end(), 0);
  const auto keep = top_k > 0 ? std::min(top_k, vocabulary) : vocabulary;
  auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + keep, ids.end(), before);
  ids.resize(static_cast<size_t>(keep));
  return ids;
}

Tensor tokens_of(std::span<const int32_t> ids) {
  return Tensor::from<int32_t>({1, static_cast<int64_t>(ids.size())}, ids);
}

}  // namespace

int32_t sample(std::span<const float> logits, int64_t vocabulary, const SamplingOptions& options, uint64_t draw) {
  T6_CHECK(vocabulary > 0 && vocabulary <= static_cast<int64_t>(logits.size()),
           "[sample] expected a vocabulary of 1..{} ids, got {}", logits.size(), vocabulary);
  const bool greedy = options.temperature == 0;
  const std::vector<int32_t> ids = likeliest(logits, vocabulary, greedy ? 1 : options.top_k);
  if (greedy) return ids[0];

  std::vector<double> cumulative(ids.size());
  double sum = 0;
  const double top = logits[static_cast<size_t>(ids[0])];
  for (size_t i = 0; i < ids.size(); ++i) {
    sum += std::exp((logits[static_cast<size_t>(ids[i])] - top) / options.temperature);
    cumulative[i] = sum;
  }
  const auto nucleus = std::lower_bound(cumulative.begin(), cumulative.end(), options.top_p * sum);
  const size_t kept = std::min(ids.size(), static_cast<size_t>(nucleus - cumulative.begin()) + 1);
  const double u = Philox(options.seed, RngPurpose::sample).uniform(draw) * cumulative[kept - 1];
  const auto at = std::upper_bound(cumulative.begin(), cumulative.begin() + static_cast<ptrdiff_t>(kept), u);
  return ids[std::min(kept - 1, static_cast<size_t>(at - cumulative.begin()))];
}

std::vector<int32_t> generate(const Transformer& model, std::span<const int32_t> prompt, int64_t count,
                              int64_t vocabulary, int32_t stop, const SamplingOptions& options,
                              const std::function<bool(int32_t)>& on_token) {
  T6_CHECK(!prompt.empty(), "[generate] expected a prompt of at least one token");
  const auto context = static_cast<size_t>(model.config().context);
  std::vector<int32_t> all(prompt.begin(), prompt.end()), made;
  size_t first = all.size() > context ? all.size() - context : 0;  // oldest token that is still seen
  DecodeState state = model.new_decode_state(1, model.config().context);
  Tensor logits = model.decode(tokens_of(std::span(all).subspan(first)), state);
  for (int64_t i = 0; i < count; ++i) {
    const Tensor row = logits.to(kCpu).to(DType::f32);
    const int32_t token =
        sample({row.data<float>(), static_cast<size_t>(row.numel())}, vocabulary, options, static_cast<uint64_t>(i));
    made.push_back(token);
    all.push_back(token);
    if (!on_token(token) || token == stop || i + 1 == count) break;
    if (all.size() - first > context) {
      first = all.size() - std::max<size_t>(1, context / 2);
      state = model.new_decode_state(1, model.config().context);
      logits = model.decode(tokens_of(std::span(all).subspan(first)), state);
    } else {
      logits = model.decode(tokens_of({&token, 1}), state);
    }
  }
  return made;
}

}  // namespace t6
