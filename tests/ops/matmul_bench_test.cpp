#include "ops/matmul_bench.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "base/error.h"

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

}  // namespace
}  // namespace t6
