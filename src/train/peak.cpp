#include "train/peak.h"

#include <fmt/format.h>
#include <omp.h>

#include <nlohmann/json.hpp>

#include "ops/matmul_bench.h"

namespace t6::train {

DevicePeak measure_cpu_peak(DType precision) {
  // Large enough for the libraries' best pace, small enough not to hold up a start.
  constexpr int64_t kSize = 1024;
  constexpr double kSeconds = 0.05;
  const int threads = ::omp_get_max_threads();
  return {.device = "cpu",
          .flops = matmul_peak(precision, threads, kSeconds, kSize) * 1e9,
          .precision = precision,
          .source = fmt::format("measured: best product of {0} x {0} matrices on {1} threads", kSize, threads)};
}

nlohmann::ordered_json to_json(const DevicePeak& peak) {
  return {{"device", peak.device},
          {"flops_per_second", peak.flops},
          {"precision", name_of(peak.precision)},
          {"source", peak.source}};
}

double model_flops_utilisation(const DevicePeak& peak, double flops_per_token, double tokens_per_second) {
  return flops_per_token * tokens_per_second / peak.flops;
}

}  // namespace t6::train
