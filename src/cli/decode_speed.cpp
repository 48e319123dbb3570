#include "cli/decode_speed.h"

#include <algorithm>

#include "base/clock.h"
#include "base/profile.h"
#include "base/rng.h"
#include "cli/step_ops.h"
#include "model/counts.h"
#include "ops/memory_bench.h"
#include "tensor/gpu.h"

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

// What decoding is held against; on a GPU the rate of copies is taken for that of reading.
double read_rate(Device device) {
  return device.is_cpu() ? memory_read_rate() : memory_rate(device);
}

// Work that a GPU is busy with while the host asks for a step, so that its kernels are timed from one end to the other
// and not while they wait for the host.
class HeadStart {
 public:
  HeadStart(Device device, double gigabytes_per_second) : rate_(gigabytes_per_second * 1e9) {
    if (device.is_cuda()) numbers_ = Tensor::empty({int64_t{16} << 20}, DType::f32, device);
  }
  void give(double seconds) const {
    if (!numbers_.defined()) return;
    for (double left = seconds * rate_; left > 0; left -= static_cast<double>(numbers_.bytes())) numbers_.fill(0);
  }

 private:
  double rate_;
  Tensor numbers_;
};

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
  model.allocate_for_inference(options.precision, options.device);
  model.parameters().initialise(1);
  const ModelCounts counts = count(model);
  const auto element = static_cast<double>(size_of(options.precision));
  DecodeSpeed speed{name,
                    std::string(config.kind_name()),
                    options.precision,
                    counts.parameters,
                    element * static_cast<double>(counts.parameters),
                    element * static_cast<double>(counts.cache_numbers),
                    read_rate(options.device),
                    {}};

  const Maker make(options.device);
  const bool on_gpu = options.device.is_cuda();
  const HeadStart head_start(options.device, speed.read_rate);
  // `ahead`: seconds of other work that a GPU gets first.
  const auto step = [&](DecodeState& state, double ahead) {
    const Tensor token = make.tokens(options.batch, config.vocab_size).value().view({options.batch, 1});
    if (on_gpu) gpu::synchronize();
    head_start.give(ahead);
    const double began = steady_seconds();
    model.decode(token, state);
    if (on_gpu) gpu::synchronize();
    const double seconds = steady_seconds() - began;
    on_step();
    return seconds;
  };
  const auto profiled = [&](DecodeState& state, double ahead) {
    profile::start();
    const double seconds = step(state, ahead);
    return std::pair(seconds, attention_seconds(profile::stop()));
  };
  const auto cache_bytes = [&](const DecodeState& state) {
    return static_cast<double>(state.length() * options.batch) * speed.cache_bytes_per_token;
  };
  const auto steps = static_cast<double>(options.steps);
  DecodeState state = model.new_decode_state(options.batch, options.last_token(options.lengths.back()));
  fill(state, make);
  for (const int64_t length : options.lengths) {
    // Lengths that lie closer than a measurement is long begin where the one before ended.
    for (LayerCache& layer : state.layers) layer.advance(std::max<int64_t>(0, length - layer.length()));
    for (int64_t i = 0; i < options.warmup; ++i) step(state, 0);
    DecodePoint point{.length = length};
    std::vector<double> seconds, attention;
    for (int64_t i = 0; i < options.steps; ++i) {
      const auto [whole, inside] = on_gpu ? std::pair(step(state, 0), 0.0) : profiled(state, 0);
      seconds.push_back(whole);
      attention.push_back(inside);
      point.cache_bytes += cache_bytes(state) / steps;
    }
    point.seconds = median(seconds);
    point.best_seconds = *std::min_element(seconds.begin(), seconds.end());
    point.bytes = point.cache_bytes + speed.weight_bytes;
    point.attention_bytes = point.cache_bytes;
    if (on_gpu) {
      attention.clear();
      point.attention_bytes = 0;
      for (int64_t i = 0; i < options.steps; ++i) {
        attention.push_back(profiled(state, point.seconds).second);
        point.attention_bytes += cache_bytes(state) / steps;
      }
    }
    point.attention_seconds = median(attention);
    speed.points.push_back(point);
  }
  speed.read_rate = std::max(speed.read_rate, read_rate(options.device));
  return speed;
}

}  // namespace t6::cli
