#include "train/peak.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "ops/matmul_bench.h"
#include "tensor/gpu.h"

namespace t6::train {

DevicePeak measure_cpu_peak(DType precision) {
  // Large enough for the libraries' best pace, small enough not to hold up a start.
  constexpr int64_t kSize = 1024;
  constexpr double kSeconds = 0.05;
  const int threads = ::omp_get_max_threads();
  return {.device = "cpu",
          .flops = matmul_peak(precision, threads, kSeconds, kSize) * 1e9,
          .precision = precision,
          .source = fmt::format("measured: best product of {0} x {0} matrices on {1} threads", kSize, threads),
          .can_rise = true};
}

namespace {

// The first whose word stands in a name counts. Dense TFLOP/s, sums in f32, by NVIDIA's published figures: datasheets
// of H100, H200, A100, A40, A30, A10, L40S and L4 Tensor Core GPUs (which print twice as much, "with sparsity", for
// Hopper; the H100's tables give 989.4 and 66.9 at more length), Blackwell architecture technical brief (HGX B200), Ada
// architecture whitepaper (RTX 4090). H800 and A800 are H100 and A100
// with slower links.
struct Card {
  std::string_view word;
  double bf16, f32;
};
constexpr double kUnknown = 0;
constexpr Card kCards[] = {
    {"H100 PCIe", 756, 51},
    {"H100 NVL", 835, 60},
    {"H100", 989, 67},
    {"H800", 989, 67},
    {"H200 NVL", 835, 60},
    {"H200", 989, 67},
    {"GH200", 989, 67},
    {"B200", 2250, 80},
    {"A100", 312, 19.5},
    {"A800", 312, 19.5},
    {"A40", 149.7, 37.4},
    {"A30", 165, 10.3},
    {"A10", 125, 31.2},
    {"L40S", 362, 91.6},
    {"L4", 121, 30.3},
    {"RTX 4090 D", kUnknown, kUnknown},
    {"RTX 4090 Laptop", kUnknown, kUnknown},
    {"RTX 4090", 165.2, 82.6},
};

}  // namespace

std::optional<double> datasheet_flops(const std::string& name, DType precision) {
  if (name.find(" MIG ") != std::string::npos) return std::nullopt;
  const auto letter_at = [&](size_t i) { return i < name.size() && std::isalnum(static_cast<unsigned char>(name[i])); };
  for (const Card& card : kCards) {
    const size_t at = name.find(card.word);
    if (at == std::string::npos || (at > 0 && letter_at(at - 1)) || letter_at(at + card.word.size())) continue;
    const double flops = precision == DType::bf16 ? card.bf16 : card.f32;
    return flops == kUnknown ? std::nullopt : std::optional(1e12 * flops);
  }
  return std::nullopt;
}

DevicePeak device_peak(Device device, DType precision) {
  if (device.is_cpu()) return measure_cpu_peak(precision);
  DevicePeak peak{.device = gpu::info(device.index).name, .flops = 0, .precision = precision, .source = "datasheet"};
  if (const auto flops = datasheet_flops(peak.device, precision)) {
    peak.flops = *flops;
  } else {
    peak.flops = gpu_matmul_peak(device, precision) * 1e9;
    gpu::release_cached();
    peak.source = "measured on a large product, as the card is in no list of datasheets";
  }
  return peak;
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

double utilisation_below_peak(DevicePeak& peak, double flops_per_token, double tokens_per_second) {
  if (peak.can_rise) peak.flops = std::max(peak.flops, flops_per_token * tokens_per_second);
  return model_flops_utilisation(peak, flops_per_token, tokens_per_second);
}

}  // namespace t6::train
