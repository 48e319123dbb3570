#include "ops/matmul_bench.h"

#include <omp.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/rng.h"
#include "ops/matmul.h"
#include "tensor/gpu.h"
#include "tensor/parallel.h"
#include "tensor/tensor.h"

namespace t6 {

namespace {

MatmulArgs square(const Tensor& a, const Tensor& b, const Tensor& c) {
  const int64_t n = a.dim(0);
  return {a.raw(), b.raw(), c.raw(), n, n, n, n, n, n, false, false, false, a.dtype(), c.dtype()};
}

double gflops(int64_t size, double seconds) {
  return 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) / seconds * 1e-9;
}

// Uniform in [-1/2, 1/2).
Tensor random_square(int64_t size, DType dtype, Device device, uint64_t stream) {
  const Philox rng(1, RngPurpose::test, stream);
  const Tensor values = Tensor::empty({size, size}, DType::f32);
  float* to = values.data<float>();
  parallel_for(size * size, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<float>(rng.uniform(static_cast<uint64_t>(i)) - 0.5);
  });
  return values.to(dtype).to(device);
}

class GpuSquare {
 public:
  GpuSquare(Device device, DType dtype, int64_t size)
      : a_(random_square(size, dtype, device, 1)),
        b_(random_square(size, dtype, device, 2)),
        c_(Tensor::empty({size, size}, dtype, device)) {
    seconds(1);  // chooses the algorithm
  }
  // Of one product, measured over `runs`.
  double seconds(int runs) const {
    gpu::Event begin, end;
    begin.record();
    for (int run = 0; run < runs; ++run) matmul(a_.device(), square(a_, b_, c_));
    end.record();
    return end.milliseconds_since(begin) * 1e-3 / runs;
  }

 private:
  Tensor a_, b_, c_;
};

}  // namespace

double matmul_peak(DType dtype, int threads, double seconds, int64_t size) {
  using Clock = std::chrono::steady_clock;
  T6_CHECK(threads >= 1 && size >= 1 && (dtype == DType::f32 || dtype == DType::bf16),
           "[matmul_peak] expected f32 or bf16, at least one thread and one row, got {}, {} and {}", name_of(dtype),
           threads, size);
  const Tensor a = Tensor::full({size, size}, dtype, 0.5), b = Tensor::full({size, size}, dtype, 0.25);
  const Tensor c = Tensor::empty({size, size}, dtype);
  const int previous = omp_get_max_threads();
  omp_set_num_threads(threads);
  double best = 1e30, total = 0;
  // The first run makes the primitive and maps memory.
  for (int run = 0; run < 4 || total < seconds; ++run) {
    const auto begin = Clock::now();
    matmul(kCpu, square(a, b, c));
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    total += took;
    if (run > 0) best = std::min(best, took);
  }
  omp_set_num_threads(previous);
  return gflops(size, best);
}

double gpu_matmul_peak(Device device, DType dtype, double seconds, int64_t size) {
  T6_CHECK(device.is_cuda() && size >= 0 && (dtype == DType::f32 || dtype == DType::bf16),
           "[gpu_matmul_peak] expected a GPU, f32 or bf16 and no negative size, got {}, {} and {}", to_string(device),
           name_of(dtype), size);
  if (size == 0) {
    size = 1024;
    for (double one = GpuSquare(device, dtype, size).seconds(1); size < 8192 && (one *= 8) < seconds;) size *= 2;
  }
  const GpuSquare product(device, dtype, size);
  const double estimate = std::max(product.seconds(1), 1e-6);
  constexpr double kGroup = 0.02;  // seconds of runs between two events: their own cost vanishes
  const int runs = std::clamp(static_cast<int>(kGroup / estimate), 1, 1000);
  double best = 1e30, total = 0;
  for (int group = 0; group < 3 || total < seconds; ++group) {
    const double took = product.seconds(runs);
    total += took * runs;
    best = std::min(best, took);
  }
  return gflops(size, best);
}

}  // namespace t6
