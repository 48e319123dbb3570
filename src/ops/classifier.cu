#include <cmath>
#include <limits>

#include "ops/classifier.h"
#include "ops/packs.cuh"
#include "ops/reduce.cuh"

namespace t6::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kAhead = 4;  // packs a thread reads before it uses the first
constexpr int kSumThreads = 1024;

// The fast form is off by some 2^-20 where it matters, far below a bf16 logit's rounding.
template <class Z>
__device__ inline float exponential(float x) {
  if constexpr (std::is_same_v<Z, bfloat16>) return __expf(x);
  return expf(x);
}

// The largest of some logits and the sum of e^(z - top) over them; top is -infinity and the sum zero for none.
struct Softmax {
  float top, sum;
};

template <class Z>
__device__ inline Softmax join(Softmax a, Softmax b) {
  const float top = fmaxf(a.top, b.top), base = std::isinf(top) && top < 0 ? 0.0f : top;
  return {top, a.sum * exponential<Z>(a.top - base) + b.sum * exponential<Z>(b.top - base)};
}

template <class Z, int N>
__device__ inline void take(Softmax& s, const Pack<Z, N>& z) {
  float top = s.top;
#pragma unroll
  for (int i = 0; i < N; ++i) top = fmaxf(top, static_cast<float>(z.v[i]));
  const float base = std::isinf(top) && top < 0 ? 0.0f : top;
  float sum = s.sum * exponential<Z>(s.top - base);
#pragma unroll
  for (int i = 0; i < N; ++i) sum += exponential<Z>(static_cast<float>(z.v[i]) - base);
  s = {top, sum};
}

// The whole block's, the same bits in every thread.
template <class Z>
__device__ inline Softmax join_block(Softmax s) {
  __shared__ float tops[kThreads / kWarp], sums[kThreads / kWarp];
  auto join_warp = [](Softmax own) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const float top = __shfl_xor_sync(0xffffffffu, own.top, offset);
      const float sum = __shfl_xor_sync(0xffffffffu, own.sum, offset);
      own = join<Z>(own, {top, sum});
    }
    return own;
  };
  s = join_warp(s);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) {
    tops[threadIdx.x / kWarp] = s.top;
    sums[threadIdx.x / kWarp] = s.sum;
  }
  __syncthreads();
  const bool is_warp = lane < kThreads / kWarp;
  s = join_warp({is_warp ? tops[lane] : -std::numeric_limits<float>::infinity(), is_warp ? sums[lane] : 0.0f});
  return {__shfl_sync(0xffffffffu, s.top, 0), __shfl_sync(0xffffffffu, s.sum, 0)};
}

// One block a row, its maximum and sum found together in one pass. Reads each logit once and writes each gradient once,
// the least there is, when the row is held in shared memory between the passes (kHeld); a row that does not fit is read
// twice. N logits at a time.
template <class Z, class G, int N, bool kHeld>
__global__ void __launch_bounds__(kThreads, 2) cross_entropy_kernel(CrossEntropyArgs a) {
  const int64_t row = blockIdx.x;
  Z* z = static_cast<Z*>(a.logits) + row * a.columns;
  G* dz = reinterpret_cast<G*>(z);
  Z* held = dynamic_shared<Z>();
  const int packs = static_cast<int>(a.columns / N), target = a.targets[row];
  const float target_logit = static_cast<float>(z[target]);

  Softmax s{-std::numeric_limits<float>::infinity(), 0.0f};
  for (int first = static_cast<int>(threadIdx.x); first < packs; first += kAhead * kThreads) {
    Pack<Z, N> p[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k * kThreads < packs) p[k] = load_pack<N>(z + (first + k * kThreads) * N);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k * kThreads < packs) {
        if constexpr (kHeld) store_pack(held + (first + k * kThreads) * N, p[k]);
        take(s, p[k]);
      }
    }
  }
  s = join_block<Z>(s);
  if (threadIdx.x == 0) static_cast<float*>(a.row_losses)[row] = logf(s.sum) + (s.top - target_logit);
  if (!a.gradient) return;

  const float scale = static_cast<float>(a.gradient_scale), factor = scale / s.sum;
  for (int begin = 0; begin < packs; begin += kThreads) {
    const int at = (begin + static_cast<int>(threadIdx.x)) * N;
    const bool inside = at < a.columns;
    Pack<Z, N> p{};
    if (inside) p = load_pack<N>((kHeld ? held : z) + at);
    // A narrower gradient lies over logits of other threads, all of which are read by now.
    if constexpr (!kHeld && sizeof(G) < sizeof(Z)) __syncthreads();
    if (inside) {
      Pack<G, N> g;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float softmax = exponential<Z>(static_cast<float>(p.v[i]) - s.top) * factor;
        store(g.v[i], at + i == target ? softmax - scale : softmax);
      }
      store_pack(dz + at, g);
    }
  }
}

// One block, each thread's rows in order, then a fixed tree. Reads 4 bytes a row.
__global__ void __launch_bounds__(kSumThreads) mean_loss_kernel(MeanLossArgs a) {
  double sum = 0;
  for (int64_t row = threadIdx.x; row < a.rows; row += kSumThreads) {
    sum += static_cast<double>(static_cast<const float*>(a.row_losses)[row]);
  }
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *static_cast<float*>(a.loss) = static_cast<float>(a.scale / static_cast<double>(a.rows) * sum);
}

template <class Z, class G>
void launch_cross_entropy(const CrossEntropyArgs& a) {
  const size_t row_bytes = static_cast<size_t>(a.columns) * sizeof(Z);
  // The kernel's own shared memory comes on top.
  const bool held = a.gradient && row_bytes + 1024 <= max_shared_bytes();
  dispatch_packed<kPackOf<Z>>(a.columns % kPackOf<Z> == 0 && aligned_to(16, a.logits),
                              [&]<int N>(std::integral_constant<int, N>) {
                                const auto rows = static_cast<unsigned>(a.rows);
                                if (held) {
                                  launch(&cross_entropy_kernel<Z, G, N, true>, {rows, kThreads, row_bytes}, a);
                                } else {
                                  launch(&cross_entropy_kernel<Z, G, N, false>, {rows, kThreads}, a);
                                }
                              });
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& a) {
  if (a.rows == 0) return;
  T6_CHECK(a.columns <= std::numeric_limits<int32_t>::max() - kThreads * kAhead * kPackOf<bfloat16>,
           "cross_entropy: {} columns are too many", a.columns);
  T6_CHECK(a.gradient_dtype == a.logits_dtype || a.gradient_dtype == DType::bf16,
           "cross_entropy: expected a gradient of {} or bf16, got {}", name_of(a.logits_dtype),
           name_of(a.gradient_dtype));
  dispatch_gpu("cross_entropy", a.logits_dtype, [&]<class Z>(Z) {
    if (a.gradient_dtype == DType::bf16) {
      launch_cross_entropy<Z, bfloat16>(a);
    } else {
      launch_cross_entropy<Z, Z>(a);
    }
  });
}

void mean_loss(const MeanLossArgs& a) {
  T6_CHECK(a.dtype == DType::f32, "mean_loss: expected f32, got {}", name_of(a.dtype));
  launch(&mean_loss_kernel, {1, kSumThreads}, a);
}

}  // namespace t6::cuda
