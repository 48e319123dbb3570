#include "ops/matmul_bench.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "base/error.h"
#include "support/device.h"

namespace t6 {
namespace {

TEST(MatmulBench, GivesARateAndRestoresTheThreadCount) {
  const int threads = omp_get_max_threads();
  const double rate = matmul_peak(DType::f32, 1, 0.01);
  EXPECT_GT(rate, 0.01);
  EXPECT_LT(rate, 1e6);
  EXPECT_EQ(omp_get_max_threads(), threads);
  EXPECT_THROW(matmul_peak(DType::f64, 1), Error);
  EXPECT_THROW(matmul_peak(DType::f32, 0), Error);
}

TEST(MatmulBench, GivesARateOfAGpu) {
  EXPECT_THROW(gpu_matmul_peak(kCpu, DType::f32), Error);
  if (!test::on_cuda() || gpu::count() == 0) GTEST_SKIP() << "needs a GPU";
  EXPECT_THROW(gpu_matmul_peak(test::test_device(), DType::f64), Error);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const double rate = gpu_matmul_peak(test::test_device(), dtype, 0.01, 256);
    EXPECT_GT(rate, 0.01);
    EXPECT_LT(rate, 1e7);
  }
}

}  // namespace
}  // namespace t6
