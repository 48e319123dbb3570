#include "cli/profile_table.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

#include "cli/output.h"
#include "ops/matmul_bench.h"
#include "ops/memory_bench.h"
#include "tensor/gpu.h"
#include "tensor/storage.h"

namespace t6::cli {
namespace {

using Json = nlohmann::ordered_json;
using profile::Entry;

constexpr const char* kRest = "outside of kernels";
constexpr std::array kCategories{"products", "attention", "element-wise", "optimizer", kRest};

std::string category_of(const std::string& kernel) {
  if (kernel == "matmul") return "products";
  if (kernel.starts_with("attention")) return "attention";
  for (const char* name : {"adamw", "sum_of_squares", "norm_and_clip"}) {
    if (kernel == name) return "optimizer";
  }
  return "element-wise";
}

// Billions a second.
double rate(double amount, double seconds) {
  return amount / std::max(seconds, 1e-12) * 1e-9;
}

// "12.3" and "45.6%", or nothing where the amount is not known.
std::pair<std::string, std::string> rate_cells(double billions, double unit, double of) {
  if (billions <= 0) return {};
  return {fmt::format("{:.1f}", billions * unit), fmt::format("{:.1f}%", billions / of * 100)};
}

}  // namespace

Yardsticks measure_yardsticks(Device device, DType precision) {
  const Yardsticks measured{
      device.is_cuda() ? gpu_matmul_peak(device, precision) : matmul_peak(precision, omp_get_max_threads()),
      memory_rate(device)};
  device.is_cuda() ? gpu::release_cached() : memory::release_cached();
  return measured;
}

std::string product_rate(double gflops) {
  return gflops < 1e4 ? fmt::format("{:.0f} GFLOP/s", gflops) : fmt::format("{:.1f} TFLOP/s", gflops * 1e-3);
}

std::string describe(const Yardsticks& y) {
  return fmt::format(
      "{} on a large product, {} in copies of memory", product_rate(y.gflops),
      y.gigabytes < 1e3 ? fmt::format("{:.1f} GB/s", y.gigabytes) : fmt::format("{:.2f} TB/s", y.gigabytes * 1e-3));
}

ProfileTable::ProfileTable(const std::vector<Entry>& entries, double seconds, int64_t steps,
                           const Yardsticks& yardsticks)
    : seconds_(seconds), steps_(static_cast<double>(steps)), yardsticks_(yardsticks) {
  for (const char* name : kCategories) categories_.push_back({{.name = name}, {}});
  double measured = 0;
  for (const Entry& entry : entries) {
    const std::string name = category_of(entry.name);
    auto at =
        std::find_if(categories_.begin(), categories_.end(), [&](const Category& c) { return c.sum.name == name; });
    at->sum.seconds += entry.seconds;
    at->sum.calls += entry.calls;
    at->sum.flops += entry.flops;
    at->sum.bytes += entry.bytes;
    at->kernels.push_back(entry);
    measured += entry.seconds;
  }
  categories_.back().sum.seconds = std::max(0.0, seconds - measured);
}

std::string ProfileTable::text() const {
  const bool tera = yardsticks_.gflops >= 1e4;
  Table table;
  table.column("where the time goes", Table::Align::left);
  for (const char* heading :
       {"ms/step", "share", "calls", tera ? "TFLOP/s" : "GFLOP/s", "of peak", "GB/s", "of memory"}) {
    table.column(heading);
  }
  const auto row = [&](const std::string& name, const Entry& e) {
    const auto [flops, of_peak] = rate_cells(rate(e.flops, e.seconds), tera ? 1e-3 : 1, yardsticks_.gflops);
    const auto [bytes, of_memory] = rate_cells(rate(e.bytes, e.seconds), 1, yardsticks_.gigabytes);
    table.row({name, fmt::format("{:.{}f}", per_step(e.seconds) * 1e3, tera ? 3 : 1),
               fmt::format("{:.1f}%", share(e) * 100),
               e.calls > 0 ? fmt::format("{:.0f}", per_step(static_cast<double>(e.calls))) : "", flops, of_peak, bytes,
               of_memory});
  };
  for (const Category& category : categories_) {
    row(category.sum.name, category.sum);
    if (category.kernels.size() < 2) continue;
    for (const Entry& kernel : category.kernels) row("  " + kernel.name, kernel);
  }
  return table.text();
}

Json ProfileTable::to_json() const {
  const auto facts = [&](const char* label, const Entry& e) {
    const double gflops = rate(e.flops, e.seconds), gigabytes = rate(e.bytes, e.seconds);
    return Json{{label, e.name},
                {"ms_per_step", per_step(e.seconds) * 1e3},
                {"share", share(e)},
                {"calls_per_step", per_step(static_cast<double>(e.calls))},
                {"gflops", gflops},
                {"share_of_peak", gflops / yardsticks_.gflops},
                {"gigabytes_per_second", gigabytes},
                {"share_of_memory_rate", gigabytes / yardsticks_.gigabytes}};
  };
  Json all = Json::array();
  for (const Category& category : categories_) {
    Json part = facts("part", category.sum);
    part["kernels"] = Json::array();
    for (const Entry& kernel : category.kernels) part["kernels"].push_back(facts("kernel", kernel));
    all.push_back(part);
  }
  return all;
}

}  // namespace t6::cli
