// How long a model takes for one decoded token, against how many tokens its caches hold: what t6 bench decode measures.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "train/run_config.h"

namespace t6::cli {

struct DecodeOptions {
  std::vector<int64_t> lengths;  // cached tokens of each measurement, rising
  int64_t batch = 1;             // sequences decoded together
  int64_t steps = 16;            // measured at each length
  int64_t warmup = 2;            // before those
  DType precision = DType::f32;
  Device device = kCpu;

  // A GPU's kernels are timed in steps of their own, as their marks would be part of a step's time.
  int64_t steps_a_length() const { return warmup + (device.is_cuda() ? 2 : 1) * steps; }
  // A measurement at `length` ends with this many tokens in the caches.
  int64_t last_token(int64_t length) const { return length + steps_a_length(); }
};

// One cache length. Times are of one step, which is one token for every sequence.
struct DecodePoint {
  int64_t length = 0;
  double seconds = 0;  // median
  double best_seconds = 0;
  double attention_seconds = 0;  // median, in the kernels that read the caches
  double attention_bytes = 0;    // of caches, read in the steps of those
  double cache_bytes = 0;        // read in a step
  double bytes = 0;              // cache and weights

  double tokens_per_second(int64_t batch) const { return static_cast<double>(batch) / seconds; }
  double gigabytes_per_second() const { return bytes / seconds * 1e-9; }
  double attention_gigabytes_per_second() const { return attention_bytes / attention_seconds * 1e-9; }
};

struct DecodeSpeed {
  std::string name;  // of the config
  std::string kind;
  DType precision = DType::f32;
  int64_t parameters = 0;
  double weight_bytes = 0;           // read in a step: every parameter once
  double cache_bytes_per_token = 0;  // what one more token of one sequence takes, all layers
  double read_rate = 0;  // GB/s, of memory, the better of just before and just after: on a shared machine it
                         // changes
  std::vector<DecodePoint> points;
};

// Bytes that measure_decode() allocates for a model: parameters and caches.
double decode_memory(const ModelConfig& model, const DecodeOptions& options);

// Random weights, and caches that are filled with random numbers instead of by a prompt. RoPE's tables reach as far as
// the lengths do, whatever the model's context. `on_step` is called after every step, the warm-up's too; there are
// lengths * steps_a_length() of them. A step ends when the device is done with it.
DecodeSpeed measure_decode(const std::string& name, const ModelConfig& model, const DecodeOptions& options,
                           const std::function<void()>& on_step);

}  // namespace t6::cli
