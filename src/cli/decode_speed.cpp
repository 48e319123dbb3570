#include "cli/decode_speed.h"

#include <algorithm>

#include "base/clock.h"
#include "base/profile.h"
#include "base/rng.h"
#include "cli/step_ops.h"
#include "model/counts.h"
#include "ops/memory_bench.h"

namespace t6::cli {
namespace {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Seconds in the kernels that read caches.
double attention_seconds(const std::vector<profile::Entry>& entries) {
  double seconds = 0;
  for (const profile::Entry& e : entries) {
    if (e.name == "attention" || e.name == "factor_decode") seconds += e.seconds;
  }
  return seconds;
}

// A model that reaches further than its config says, with its caches.
ModelConfig lengthened(ModelConfig model, const DecodeOptions& options) {
  model.context = std::max(model.context, options.last_token(options.lengths.back()));
  return model;
}

void fill(const DecodeState& state, const Maker& make) {
  for (const LayerCache& layer : state.layers) {
    for (size_t slot = 0; slot < layer.slots(); ++slot) make.refill(layer.slot(slot));
  }
}

}  // namespace

double decode_memory(const ModelConfig& config, const DecodeOptions& options) {
  const Transformer model(lengthened(config, options));
  const auto element = static_cast<double>(size_of(options.precision));
  return element * static_cast<double>(model.parameters().storage_size()) +
         element * static_cast<double>(count(model).cache_numbers * options.batch *
                                       options.last_token(options.lengths.back()));
}

DecodeSpeed measure_decode(const std::string& name, const ModelConfig& config, const DecodeOptions& options,
                           const std::function<void()>& on_step) {
  Transformer model(lengthened(config, options));
  model.allocate_for_inference(options.precision);
  model.parameters().initialise(1);
  const ModelCounts counts = count(model);
  const auto element = static_cast<double>(size_of(options.precision));
  DecodeSpeed speed{name,
                    std::string(config.kind_name()),
                    options.precision,
                    counts.parameters,
                    element * static_cast<double>(counts.parameters),
                    element * static_cast<double>(counts.cache_numbers),
                    memory_read_rate(),
                    {}};

  const Maker make(kCpu);
  const auto step = [&](DecodeState& state) {
    const Tensor token = make.tokens(options.batch, config.vocab_size).value().view({options.batch, 1});
    const double began = steady_seconds();
    model.decode(token, state);
    return steady_seconds() - began;
  };
  DecodeState state = model.new_decode_state(options.batch, options.last_token(options.lengths.back()));
  fill(state, make);
  for (const int64_t length : options.lengths) {
    // Lengths that lie closer than a measurement is long begin where the one before ended.
    for (LayerCache& layer : state.layers) layer.advance(std::max<int64_t>(0, length - layer.length()));
    std::vector<double> seconds, attention;
    for (int64_t i = 0; i < options.warmup; ++i, on_step()) step(state);
    double cached = 0;
    for (int64_t i = 0; i < options.steps; ++i, on_step()) {
      profile::start();
      seconds.push_back(step(state));
      attention.push_back(attention_seconds(profile::stop()));
      cached += static_cast<double>(state.length() * options.batch) / static_cast<double>(options.steps);
    }
    const double cache_bytes = cached * speed.cache_bytes_per_token;
    speed.points.push_back({length, median(seconds), *std::min_element(seconds.begin(), seconds.end()),
                            median(attention), cache_bytes, cache_bytes + speed.weight_bytes});
  }
  speed.read_rate = std::max(speed.read_rate, memory_read_rate());
  return speed;
}

}  // namespace t6::cli
