// What a device can do at best in matrix products: the whole that MFU is a fraction of.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace t6::train {

// Of one device. Where a figure comes from another place than a measurement (a GPU's datasheet, by its name), `source`
// says which.
struct DevicePeak {
  std::string device;  // "cpu", or a GPU's name
  double flops = 0;    // a second, dense products
  DType precision = DType::f32;
  std::string source;
  bool can_rise = false;  // measured on a CPU, which may have done other work just then
};

// Measured with matmul() on as many threads as OpenMP would take now: the best of a few large products, about 0.1 s on
// two cores.
DevicePeak measure_cpu_peak(DType precision);

// Dense FLOP/s by the datasheet of the card that calls itself `name`: bf16 on tensor cores, f32 without them. Nothing
// for a card that is not in the list, or for a slice of one.
std::optional<double> datasheet_flops(const std::string& name, DType precision);

// Of the CPU as measured, of a GPU by its datasheet; a GPU that is not in the list is measured, in about 0.5 s.
DevicePeak device_peak(Device device, DType precision);

// For env.json.
nlohmann::ordered_json to_json(const DevicePeak& peak);

// The fraction of the peak that training reaches. flops_per_token: forward and backward, as model/counts.h counts them;
// tokens_per_second: of one device.
double model_flops_utilisation(const DevicePeak& peak, double flops_per_token, double tokens_per_second);

// The same, where training that exceeds a peak which can rise raises it: so never above 1 for such a peak.
double utilisation_below_peak(DevicePeak& peak, double flops_per_token, double tokens_per_second);

}  // namespace t6::train
