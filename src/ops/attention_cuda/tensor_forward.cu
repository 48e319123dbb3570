#include "ops/attention_cuda/fragments.cuh"
#include "ops/attention_cuda/tensor_cores.h"

namespace t6::cuda::tensor_cores {
namespace {

using namespace fragments;

// Block (x, y, z): a tile of queries of head y of sequence z, against one tile of keys after the other; as
// attention_forward_kernel of forward.cu. The next keys and values are copied in while these are worked on.
template <int kQkWidth, int kVWidth, int R>
__global__ void __launch_bounds__(kThreads) attention_forward_mma_kernel(AttentionArgs a) {
  constexpr int kRows = kWarps * 16 * R;
  using Scores = Fragments<R, kColumns>;
  const int64_t b = blockIdx.z, h = blockIdx.y, g = h / (a.heads / a.kv_heads);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;  // those with most keys start first
  const int offset = static_cast<int>(a.offset), queries = static_cast<int>(a.queries);
  const int seen = offset + min(first + kRows, queries);  // keys some query of the tile sees
  const Head<const bfloat16> q(a.q, a.queries, a.heads, a.qk_width, b, h);
  const Head<const bfloat16> k(a.k, a.keys, a.kv_heads, a.qk_width, b, g);
  const Head<const bfloat16> v(a.v, a.keys, a.kv_heads, a.v_width, b, g);

  bfloat16* q_tile = dynamic_shared<bfloat16>();
  bfloat16* kv_tiles = q_tile + kRows * stride_of(q.width);
  const int v_at = kColumns * stride_of(k.width), kv_size = v_at + kColumns * stride_of(v.width);

  const float c = static_cast<float>(a.scale * 1.4426950408889634);
  Fragments<R, kVWidth> o;
  o.clear();
  float largest[R][2], sum[R][2];  // a row's largest score and this thread's part of its sum, in powers of two
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) largest[r][half] = -INFINITY, sum[r][half] = 0;
  }

  copy_rows<kRows>(q_tile, q, first, queries);
  copy_rows<kColumns>(kv_tiles, k, 0, seen);
  copy_rows<kColumns>(kv_tiles + v_at, v, 0, seen);
  for (int key = 0; key < seen; key += kColumns) {
    const bfloat16* k_tile = kv_tiles + key / kColumns % 2 * kv_size;
    wait_for_copies();
    __syncthreads();  // these keys and values are there, those before have been read
    if (const int next = key + kColumns; next < seen) {
      bfloat16* to = kv_tiles + next / kColumns % 2 * kv_size;
      copy_rows<kColumns>(to, k, next, seen);
      copy_rows<kColumns>(to + v_at, v, next, seen);
    }
    Scores p;
    p.template dot_rows<kQkWidth>(q_tile, k_tile, q.width);
    const bool masked = key + kColumns > offset + first + 1;  // for some row of the tile
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int last = offset + first + Scores::row(r, half) - key;  // column of the last key the row sees
        float top = largest[r][half];
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            p.at[r][n][e] *= c;
            if (masked && Scores::column(n) + e % 2 > last) p.at[r][n][e] = -INFINITY;
            top = fmaxf(top, p.at[r][n][e]);
          }
        }
        top = row_max(top);  // finite: every row sees key 0
        const float shrink = exp2f(largest[r][half] - top);
        largest[r][half] = top;
        sum[r][half] *= shrink;
        o.scale_row(r, half, shrink);
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            p.at[r][n][e] = exp2f(p.at[r][n][e] - top);
            sum[r][half] += p.at[r][n][e];
          }
        }
      }
    }
    o.add_weighted(p, k_tile + v_at, v.width);
  }

#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = row_sum(sum[r][half]);
      o.scale_row(r, half, 1 / total);
      const int row = first + Scores::row(r, half);
      if (a.lse != nullptr && threadIdx.x % 4 == 0 && row < queries) {
        static_cast<float*>(a.lse)[(b * a.heads + h) * a.queries + row] = (largest[r][half] + log2f(total)) * kLn2;
      }
    }
  }
  o.write(Head<bfloat16>(a.o, a.queries, a.heads, a.v_width, b, h), first, queries);
}

template <int kQkWidth, int kVWidth, int R>
void run(const AttentionArgs& a) {
  constexpr int kRows = kWarps * 16 * R;
  const int q_stride = stride_of(static_cast<int>(a.qk_width)), v_stride = stride_of(static_cast<int>(a.v_width));
  const size_t bytes = (kRows * q_stride + 2 * kColumns * (q_stride + v_stride)) * sizeof(bfloat16);
  const dim3 grid(blocks_for(a.queries, kRows), static_cast<unsigned>(a.heads), static_cast<unsigned>(a.batch));
  launch(&attention_forward_mma_kernel<kQkWidth, kVWidth, R>, {grid, kThreads, bytes}, a);
}

bool on_16_bytes(const void* x) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

}  // namespace

bool takes(const AttentionArgs& a) {
  bool aligned = a.qk_width % 8 == 0 && a.v_width % 8 == 0;
  for (const void* x : {a.q, a.k, a.v, static_cast<const void*>(a.o)}) aligned = aligned && on_16_bytes(x);
  return a.dtype == DType::bf16 && aligned && a.qk_width <= 128 && a.v_width <= 128;
}

bool takes(const AttentionBackwardArgs& args) {
  bool aligned = on_16_bytes(args.d_o);
  for (const void* x : {args.dq, args.dk, args.dv}) aligned = aligned && on_16_bytes(x);
  return aligned && takes(args.forward);
}

void attention(const AttentionArgs& a) {
  if (a.qk_width <= 64 && a.v_width <= 64 && a.queries > 64) return run<64, 64, 2>(a);
  if (a.v_width <= 64) return run<128, 64, 1>(a);
  run<128, 128, 1>(a);
}

}  // namespace t6::cuda::tensor_cores
