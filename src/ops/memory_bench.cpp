#include "ops/memory_bench.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "ops/vector.h"
#include "tensor/gpu.h"
#include "tensor/tensor.h"

namespace t6 {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double seconds_of_a_copy(const Tensor& from, const Tensor& to) {
  if (to.device().is_cpu()) {
    const auto begin = Clock::now();
    to.copy_from(from);
    return seconds_since(begin);
  }
  constexpr int kCopies = 10;  // between two events: their own cost vanishes
  gpu::Event begin, end;
  begin.record();
  for (int i = 0; i < kCopies; ++i) to.copy_from(from);
  end.record();
  return end.milliseconds_since(begin) * 1e-3 / kCopies;
}

// The sum of kBlockNumbers numbers; eight registers, so that no load waits for an addition.
constexpr int64_t kBlockNumbers = int64_t{1} << 18;
float sum_of_block(const float* from) {
  using V = Vector<float>;
  constexpr int64_t kRegisters = 8;
  V::Type sums[kRegisters] = {};
  for (int64_t i = 0; i < kBlockNumbers; i += kRegisters * V::kLanes) {
    for (int64_t r = 0; r < kRegisters; ++r) sums[r] += V::load(from + i + r * V::kLanes);
  }
  for (int64_t r = 1; r < kRegisters; ++r) sums[0] += sums[r];
  return V::sum(sums[0]);
}

}  // namespace

double memory_rate(Device device, double seconds, int64_t bytes) {
  const int64_t count = bytes / static_cast<int64_t>(size_of(DType::f32));
  T6_CHECK(count >= 1, "[memory_rate] expected at least the bytes of one number, got {}", bytes);
  const Tensor from = Tensor::full({count}, DType::f32, 0.5, device), to = Tensor::empty({count}, DType::f32, device);
  const auto began = Clock::now();
  double best = 1e30;
  // The first run maps memory.
  for (int run = 0; run < 4 || seconds_since(began) < seconds; ++run) {
    const double took = seconds_of_a_copy(from, to);
    if (run > 0) best = std::min(best, took);
  }
  return 2.0 * static_cast<double>(from.bytes()) / best * 1e-9;
}

double memory_read_rate(double seconds, int64_t bytes) {
  const int64_t blocks = bytes / (kBlockNumbers * static_cast<int64_t>(sizeof(float)));
  T6_CHECK(blocks >= 1, "[memory_read_rate] expected at least the bytes of one block, got {}", bytes);
  const Tensor from = Tensor::full({blocks * kBlockNumbers}, DType::f32, 0.5);
  const float* numbers = from.data<float>();
  const auto began = Clock::now();
  double best = 1e30;
  float total = 0;
  for (int run = 0; run < 4 || seconds_since(began) < seconds; ++run) {
    const auto begin = Clock::now();
    float sum = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : sum)
    for (int64_t i = 0; i < blocks; ++i) sum += sum_of_block(numbers + i * kBlockNumbers);
    best = std::min(best, seconds_since(begin));
    total += sum;
  }
  T6_CHECK(total > 0, "[memory_read_rate] the sum of positive numbers is {}", total);
  return static_cast<double>(from.bytes()) / best * 1e-9;
}

}  // namespace t6
