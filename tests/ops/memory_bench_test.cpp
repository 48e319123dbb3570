#include "ops/memory_bench.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/device.h"

namespace t6 {
namespace {

TEST(MemoryBench, GivesARateOfEitherDevice) {
  if (test::on_cuda() && gpu::count() == 0) GTEST_SKIP() << "needs a GPU";
  const double rate = memory_rate(test::test_device(), 0.01, 1 << 20);
  EXPECT_GT(rate, 0.001);
  EXPECT_LT(rate, 1e6);
  EXPECT_THROW(memory_rate(test::test_device(), 0.01, 3), Error);
}

TEST(MemoryBench, GivesARateOfReading) {
  const double rate = memory_read_rate(0.01, 1 << 20);
  EXPECT_GT(rate, 0.001);
  EXPECT_LT(rate, 1e6);
  EXPECT_THROW(memory_read_rate(0.01, 1000), Error);
}

}  // namespace
}  // namespace t6
