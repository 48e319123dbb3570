// The device a test computes on: tests of operations run once on the CPU and, in a build with CUDA kernels, once more
// on the GPU (label cuda), with T6_TEST_DEVICE=cuda in their environment.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>

#include "tensor/device.h"
#include "tensor/gpu.h"

namespace t6::test {

inline bool on_cuda() {
  const char* name = std::getenv("T6_TEST_DEVICE");
  return name != nullptr && std::string_view(name) == "cuda";
}

inline Device test_device() {
  return on_cuda() ? Device{Device::Kind::cuda, 0} : kCpu;
}

}  // namespace t6::test
