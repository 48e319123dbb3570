#include <cmath>
#include <limits>

#include "ops/global_norm.h"
#include "ops/packs.cuh"
#include "ops/reduce.cuh"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSumThreads = 1024;

// One block a partial. Which elements a thread adds up does not depend on N, the elements read at once, so the sum does
// not depend on where x begins. Reads 4 bytes an element, writes 8 per kSquaresBlock: the least there is.
template <int N>
__global__ void __launch_bounds__(kThreads) squares_kernel(SquaresArgs a) {
  constexpr int kQuads = kSquaresBlock / 4 / kThreads;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kSquaresBlock;
  const float* x = a.x + begin;
  const int64_t count = min(a.count - begin, kSquaresBlock);
  Pack<float, 4> quads[kQuads];
#pragma unroll
  for (int k = 0; k < kQuads; ++k) {
    const int at = (k * kThreads + static_cast<int>(threadIdx.x)) * 4;
    if (N == 4 && at + 4 <= count) {
      quads[k] = load_pack<4>(x + at);
    } else {
      for (int i = 0; i < 4; ++i) quads[k].v[i] = at + i < count ? x[at + i] : 0.0f;
    }
  }
  double sum = 0;
#pragma unroll
  for (int k = 0; k < kQuads; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const double value = static_cast<double>(quads[k].v[i]);
      sum = fma(value, value, sum);
    }
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) a.partials[blockIdx.x] = sum;
}

// One block. Reads 8 bytes a partial, 0.001 of what squares_kernel read.
__global__ void __launch_bounds__(kSumThreads) sum_kernel(SumArgs a) {
  double sum = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < a.count; i += kSumThreads) sum += a.partials[i];
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *a.sum = sum;
}

__global__ void norm_and_clip_kernel(NormAndClipArgs a) {
  const double norm = sqrt(*a.sum);
  const bool bad = !std::isfinite(norm) || (a.previous != nullptr && std::isnan(a.previous[1])) ||
                   norm > a.limits.norm || (a.loss != nullptr && (!std::isfinite(*a.loss) || *a.loss > a.limits.loss));
  const double clip = norm > a.max_norm ? a.max_norm / norm : 1.0;
  a.norm_and_clip[0] = static_cast<float>(norm);
  a.norm_and_clip[1] = bad ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(clip);
}

}  // namespace

void squares(const SquaresArgs& a) {
  if (a.count == 0) return;
  dispatch_packed<4>(aligned_to(16, a.x), [&]<int N>(std::integral_constant<int, N>) {
    launch(&squares_kernel<N>, {blocks_for(a.count, kSquaresBlock), kThreads}, a);
  });
}

void sum(const SumArgs& a) {
  launch(&sum_kernel, {1, kSumThreads}, a);
}

void norm_and_clip(const NormAndClipArgs& a) {
  launch(&norm_and_clip_kernel, {1, 1}, a);
}

}  // namespace t6::cuda
