// Part of every test program that may run on the GPU: where its tests were asked to (T6_TEST_DEVICE=cuda) and none is
// there, all of them are skipped, and say so as CTest reads it.
#include <gtest/gtest.h>

#include <cstdio>

#include "support/device.h"

namespace t6::test {
namespace {

class NeedsGpu : public testing::Environment {
 public:
  void SetUp() override {
    if (!on_cuda() || gpu::count() > 0) return;
    std::printf("[  SKIPPED ] all tests: %s\n", gpu::why_none().c_str());
    GTEST_SKIP() << "needs a GPU";
  }
};

[[maybe_unused]] testing::Environment* const needs_gpu = testing::AddGlobalTestEnvironment(new NeedsGpu);

}  // namespace
}  // namespace t6::test
