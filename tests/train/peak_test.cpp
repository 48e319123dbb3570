#include "train/peak.h"

#include <gtest/gtest.h>

#include "support/device.h"

namespace t6::train {
namespace {

TEST(DevicePeak, KnowsCardsByTheNamesTheyGiveThemselves) {
  const auto bf16 = [](const char* name) { return datasheet_flops(name, DType::bf16).value_or(0) * 1e-12; };
  EXPECT_EQ(bf16("NVIDIA H100 80GB HBM3"), 989);
  EXPECT_EQ(bf16("NVIDIA H100 PCIe"), 756);
  EXPECT_EQ(bf16("NVIDIA H100 NVL"), 835);
  EXPECT_EQ(bf16("NVIDIA H200"), 989);
  EXPECT_EQ(bf16("NVIDIA GH200 480GB"), 989);
  EXPECT_EQ(bf16("NVIDIA A100-SXM4-40GB"), 312);
  EXPECT_EQ(bf16("NVIDIA L40S"), 362);
  EXPECT_EQ(bf16("NVIDIA L4"), 121);
  EXPECT_EQ(bf16("NVIDIA B200"), 2250);
  EXPECT_EQ(bf16("NVIDIA GeForce RTX 4090"), 165.2);
  EXPECT_EQ(datasheet_flops("NVIDIA A100-SXM4-40GB", DType::f32), 19.5e12);
  EXPECT_EQ(datasheet_flops("NVIDIA H100 80GB HBM3", DType::f32), 67e12);
  for (const char* other : {"NVIDIA RTX A1000", "NVIDIA L40", "NVIDIA GB200", "NVIDIA H20", "NVIDIA GeForce RTX 4090 D",
                            "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "a GPU"}) {
    EXPECT_FALSE(datasheet_flops(other, DType::bf16)) << other;
  }
}

TEST(DevicePeak, IsMeasuredWhereNoDatasheetIsKnown) {
  if (test::on_cuda() && gpu::count() == 0) GTEST_SKIP() << "needs a GPU";
  const DevicePeak peak = device_peak(test::test_device(), DType::f32);
  EXPECT_GT(peak.flops, 1e6);
  EXPECT_EQ(peak.precision, DType::f32);
  EXPECT_EQ(peak.source.starts_with("measured"), !datasheet_flops(peak.device, DType::f32).has_value()) << peak.source;
}

// A peak that was measured while the machine did other work is none.
TEST(DevicePeak, OfACpuRisesToWhatTrainingReaches) {
  DevicePeak peak{.device = "cpu", .flops = 100e9, .source = "measured", .can_rise = true};
  EXPECT_EQ(utilisation_below_peak(peak, 1e9, 50), 0.5);
  EXPECT_EQ(utilisation_below_peak(peak, 1e9, 200), 1);
  EXPECT_EQ(peak.flops, 200e9);
  EXPECT_EQ(utilisation_below_peak(peak, 1e9, 50), 0.25);
  DevicePeak datasheet{.device = "a GPU", .flops = 100e9, .source = "datasheet"};
  EXPECT_EQ(utilisation_below_peak(datasheet, 1e9, 200), 2);
  EXPECT_EQ(datasheet.flops, 100e9);
  EXPECT_TRUE(device_peak(kCpu, DType::f32).can_rise);
}

}  // namespace
}  // namespace t6::train
