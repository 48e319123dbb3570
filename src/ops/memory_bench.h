// The measured rate of a device's memory: the yardstick for kernels that do little but move data.
#pragma once

#include <cstdint>

#include "tensor/device.h"

namespace t6 {

// GB/s, read and written together, of copies of `bytes` within the device's memory: the best of several over about
// `seconds`. On the CPU on all threads that OpenMP would take now.
double memory_rate(Device device, double seconds = 0.3, int64_t bytes = int64_t{256} << 20);

// The same for reading alone on the CPU, GB/s: what decoding is held against, which reads weights and caches and writes
// next to nothing.
double memory_read_rate(double seconds = 0.3, int64_t bytes = int64_t{256} << 20);

}  // namespace t6
