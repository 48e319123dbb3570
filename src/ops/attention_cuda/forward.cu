#include "ops/attention_cuda/own.h"
#include "ops/attention_cuda/tensor_cores.h"
#include "ops/attention_cuda/tiles.cuh"

namespace t6::cuda::own {
namespace {

using namespace tiles;

// Block (x, y, z): a tile of queries of head y of sequence z, against one tile of keys after the other. Per row it
// keeps the largest score, the sum of exponentials and the sum of values under that largest score, all in powers of
// two.
template <class T, int N, int kPacks>
__global__ void __launch_bounds__(kThreads) attention_forward_kernel(AttentionArgs a) {
  constexpr int kRows = N * kSide;
  const Place me;
  const int64_t b = blockIdx.z, h = blockIdx.y, g = h / (a.heads / a.kv_heads);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;  // those with most keys start first
  const int offset = static_cast<int>(a.offset), queries = static_cast<int>(a.queries);
  const int seen = offset + min(first + kRows, queries);  // keys some query of the tile sees
  const int qk_width = static_cast<int>(a.qk_width), v_width = static_cast<int>(a.v_width);
  const Head<const T> q(a.q, a.queries, a.heads, a.qk_width, b, h);
  const Head<const T> k(a.k, a.keys, a.kv_heads, a.qk_width, b, g);
  const Head<const T> v(a.v, a.keys, a.kv_heads, a.v_width, b, g);

  float* q_tile = dynamic_shared<float>();
  float* kv_tile = q_tile + kRows * stride_of(qk_width);  // keys, then values
  float* weights = kv_tile + kRows * max(stride_of(qk_width), stride_of(v_width));

  const float c = static_cast<float>(a.scale * 1.4426950408889634);
  Sums<N, kPacks> o;
  float largest[N], sum[N];  // sum: this thread's columns
#pragma unroll
  for (int i = 0; i < N; ++i) largest[i] = -INFINITY, sum[i] = 0;

  load_rows<kRows>(q_tile, q, first, queries);
  for (int key = 0; key < seen; key += kRows) {
    __syncthreads();
    load_rows<kRows>(kv_tile, k, key, seen);
    __syncthreads();
    float p[N][N];
    dot_rows(p, q_tile, kv_tile, qk_width);
    __syncthreads();
    load_rows<kRows>(kv_tile, v, key, seen);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int last = offset + first + me.r + kSide * i - key;  // column of the last key the row sees
      float top = largest[i];
#pragma unroll
      for (int j = 0; j < N; ++j) {
        p[i][j] = me.c + kSide * j <= last ? p[i][j] * c : -INFINITY;
        top = fmaxf(top, p[i][j]);
      }
      top = row_max(top);  // finite: every row sees key 0
      const float shrink = exp2f(largest[i] - top);
      largest[i] = top;
      sum[i] *= shrink;
      o.scale_row(i, shrink);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        p[i][j] = exp2f(p[i][j] - top);
        sum[i] += p[i][j];
      }
    }
    put_weights(weights, p);
    __syncthreads();
    o.add_weighted(weights, kv_tile, v_width);
  }

#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float total = row_sum(sum[i]);
    o.scale_row(i, 1 / total);
    const int row = first + me.r + kSide * i;
    if (a.lse != nullptr && me.c == 0 && row < queries) {
      static_cast<float*>(a.lse)[(b * a.heads + h) * a.queries + row] = (largest[i] + log2f(total)) * kLn2;
    }
  }
  o.write(Head<T>(a.o, a.queries, a.heads, a.v_width, b, h), first, queries);
}

}  // namespace

void attention(const AttentionArgs& a) {
  if (a.batch == 0 || a.queries == 0 || a.heads == 0) return;
  if (tensor_cores::takes(a)) return tensor_cores::attention(a);
  dispatch("attention", a, [&]<class T, int N, int kPacks>() {
    constexpr int kRows = N * kSide;
    const int q_stride = stride_of(a.qk_width), v_stride = stride_of(a.v_width);
    const int floats = kRows * (q_stride + std::max(q_stride, v_stride) + stride_of(kRows));
    const dim3 grid(blocks_for(a.queries, kRows), static_cast<unsigned>(a.heads), static_cast<unsigned>(a.batch));
    launch(&attention_forward_kernel<T, N, kPacks>, {grid, kThreads, floats * sizeof(float)}, a);
  });
}

}  // namespace t6::cuda::own
