#include "train/device.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "ops/attention_backend.h"
#include "tensor/gpu.h"

namespace t6::train {
namespace {

TEST(ChooseDevice, TakesAGpuWhereThereIsOne) {
  const bool there_is_one = gpu::count() > 0;
  EXPECT_EQ(choose_device(DeviceChoice::cpu), kCpu);
  EXPECT_EQ(choose_device(DeviceChoice::automatic).is_cuda(), there_is_one);
  if (there_is_one) {
    const Device device = choose_device(DeviceChoice::cuda);
    EXPECT_TRUE(device.is_cuda());
    EXPECT_FALSE(describe_gpu(device).at("name").get<std::string>().empty());
    return;
  }
  try {
    choose_device(DeviceChoice::cuda);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find(gpu::why_none()), std::string::npos) << error.what();
  }
}

TEST(Determinism, StrictReachesAttention) {
  const AttentionBackend before = attention_backend();
  set_determinism(Determinism::strict);
  EXPECT_TRUE(attention_backend().deterministic);
  set_determinism(Determinism::standard);
  EXPECT_FALSE(attention_backend().deterministic);
  set_attention_backend(before);
}

}  // namespace
}  // namespace t6::train
