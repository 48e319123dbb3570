#include "ops/decode_cuda/decode.h"

#include "ops/decode_cuda/shares.cuh"
#include "ops/reduce.cuh"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 16;  // of a block
constexpr int kSlices = kThreads / kColumns;

// Block (x, y, z): columns z of head y of unit x, each by slices of the splits, whose sums are added in order.
template <class T>
__global__ void __launch_bounds__(kThreads) decode_join_kernel(DecodeArgs a, Shares s, float* partials) {
  __shared__ float maxima[kThreads / kWarp], slices[kThreads];
  float* weights = dynamic_shared<float>();  // [splits]
  const int head = static_cast<int>(blockIdx.y), unit = static_cast<int>(blockIdx.x),
            me = static_cast<int>(threadIdx.x);
  const int active = Share(s, a, unit, 0).active;

  float max = -INFINITY;
  for (int i = me; i < active; i += kThreads) max = fmaxf(max, Partial(partials, s, unit, i).max[head]);
  for (int offset = kWarp / 2; offset > 0; offset /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
  if (me % kWarp == 0) maxima[me / kWarp] = max;
  __syncthreads();
  for (int i = 0; i < kThreads / kWarp; ++i) max = fmaxf(max, maxima[i]);

  float sum = 0;
  for (int i = me; i < active; i += kThreads) {
    const Partial partial(partials, s, unit, i);
    weights[i] = exp2f(partial.max[head] - max);
    sum += weights[i] * partial.sum[head];
  }
  sum = block_sum<kThreads>(sum);  // its barriers show everyone the weights
  const float factor = active > 0 ? 1.0f / (sum * static_cast<float>(s.rank_v)) : 0.0f;

  const int column = static_cast<int>(blockIdx.z) * kColumns + me % kColumns;
  float value = 0;
  if (column < s.v_width) {
#pragma unroll 4
    for (int i = me / kColumns; i < active; i += kSlices) {
      value += weights[i] * Partial(partials, s, unit, i).out[head * s.v_width + column];
    }
  }
  slices[me] = value;
  __syncthreads();
  if (me >= kColumns || column >= s.v_width) return;
  for (int i = 1; i < kSlices; ++i) value += slices[i * kColumns + me];
  static_cast<T*>(a.o)[(static_cast<int64_t>(unit) * s.heads + head) * s.v_width + column] =
      static_cast<T>(value * factor);
}

}  // namespace

void join_partials(const DecodeArgs& a, const Shares& s, const Partials& partials) {
  const LaunchShape shape{
      dim3(static_cast<unsigned>(s.units), static_cast<unsigned>(s.heads), blocks_for(s.v_width, kColumns)), kThreads,
      static_cast<size_t>(s.splits) * sizeof(float)};
  if (a.dtype == DType::bf16) {
    launch(&decode_join_kernel<bfloat16>, shape, a, s, partials.data());
  } else {
    launch(&decode_join_kernel<float>, shape, a, s, partials.data());
  }
}

void decode(const DecodeArgs& a) {
  if (a.batch * a.queries * a.groups * a.heads * a.v_width == 0) return;
  T6_CHECK(a.width > 0, "decode: expected heads of at least one number");
  T6_CHECK(a.dtype != DType::f64, "decode: f64 is not built for cuda");
  if (decode_on_tensor_cores::takes(a)) {
    decode_on_tensor_cores::run(a);
  } else {
    decode_on_cuda_cores::run(a);
  }
}

}  // namespace t6::cuda
