#include "ops/matmul_bench.h"

#include <omp.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "ops/matmul.h"
#include "tensor/tensor.h"

namespace t6 {

double matmul_peak(DType dtype, int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  T6_CHECK(threads >= 1 && (dtype == DType::f32 || dtype == DType::bf16),
           "[matmul_peak] expected f32 or bf16 and at least one thread, got {} and {}", name_of(dtype), threads);
  constexpr int64_t kSize = 2048;
  const Tensor a = Tensor::full({kSize, kSize}, dtype, 0.5), b = Tensor::full({kSize, kSize}, dtype, 0.25);
  const Tensor c = Tensor::empty({kSize, kSize}, dtype);
  const int previous = omp_get_max_threads();
  omp_set_num_threads(threads);
  double best = 1e30, total = 0;
  // The first run makes the primitive and maps memory.
  for (int run = 0; run < 4 || total < seconds; ++run) {
    const auto begin = Clock::now();
    matmul(kCpu,
           {a.raw(), b.raw(), c.raw(), kSize, kSize, kSize, kSize, kSize, kSize, false, false, false, dtype, dtype});
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    total += took;
    if (run > 0) best = std::min(best, took);
  }
  omp_set_num_threads(previous);
  return 2.0 * kSize * kSize * kSize / best * 1e-9;
}

}  // namespace t6
