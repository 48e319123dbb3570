// Tensors of random numbers.
#pragma once

#include <vector>

#include "base/rng.h"
#include "tensor/tensor.h"

namespace t6::test {

// Uniform in [low, high), the same for the same `stream` on every device.
inline Tensor random_tensor(const Shape& shape, DType dtype, uint64_t stream, Device device = kCpu, double low = -0.5,
                            double high = 0.5) {
  const Philox rng(11, RngPurpose::test, stream);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = low + (high - low) * rng.uniform(i);
  return Tensor::from<double>(shape, values).to(dtype).to(device);
}

}  // namespace t6::test
