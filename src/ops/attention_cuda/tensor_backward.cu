#include "ops/attention_cuda/fragments.cuh"
#include "ops/attention_cuda/tensor_cores.h"

// The two passes of backward.cu, on fragments. P and dS are rounded to bf16 where they are factors. The next pair of
// tiles is copied in while one is worked on.
namespace t6::cuda::tensor_cores {
namespace {

using namespace fragments;

constexpr int kRows = kWarps * 16;
static_assert(kRows == kColumns);
using Scores = Fragments<1, kColumns>;

// Block (x, y, z): dq of a tile of queries of head y of sequence z.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) attention_dq_mma_kernel(AttentionBackwardArgs args, const float* delta) {
  const AttentionArgs& a = args.forward;
  const int64_t b = blockIdx.z, h = blockIdx.y, g = h / (a.heads / a.kv_heads);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const int offset = static_cast<int>(a.offset), queries = static_cast<int>(a.queries);
  const int seen = offset + min(first + kRows, queries);
  const Head<const bfloat16> q(a.q, a.queries, a.heads, a.qk_width, b, h);
  const Head<const bfloat16> d_o(args.d_o, a.queries, a.heads, a.v_width, b, h);
  const Head<const bfloat16> k(a.k, a.keys, a.kv_heads, a.qk_width, b, g);
  const Head<const bfloat16> v(a.v, a.keys, a.kv_heads, a.v_width, b, g);

  const int second = kRows * stride_of(q.width), pair = second + kRows * stride_of(v.width);
  bfloat16* q_tile = dynamic_shared<bfloat16>();  // with do behind it
  bfloat16* kv_tiles = q_tile + pair;             // twice keys and values

  const float scale = static_cast<float>(a.scale), c = static_cast<float>(a.scale * 1.4426950408889634);
  float lse[2], mean[2];  // lse in powers of two
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + Scores::row(0, half);
    const int64_t at = (b * a.heads + h) * a.queries + row;
    lse[half] = row < queries ? static_cast<const float*>(a.lse)[at] * kLog2e : 0;
    mean[half] = row < queries ? delta[at] : 0;
  }
  copy_rows<kRows>(q_tile, q, first, queries);
  copy_rows<kRows>(q_tile + second, d_o, first, queries);
  copy_rows<kColumns>(kv_tiles, k, 0, seen);
  copy_rows<kColumns>(kv_tiles + second, v, 0, seen);
  Fragments<1, kWidth> dq;
  dq.clear();
  for (int key = 0; key < seen; key += kColumns) {
    const bfloat16* k_tile = kv_tiles + key / kColumns % 2 * pair;
    wait_for_copies();
    __syncthreads();  // these keys and values are there, those before have been read
    if (const int next = key + kColumns; next < seen) {
      bfloat16* to = kv_tiles + next / kColumns % 2 * pair;
      copy_rows<kColumns>(to, k, next, seen);
      copy_rows<kColumns>(to + second, v, next, seen);
    }
    Scores p, ds;
    p.template dot_rows<kWidth>(q_tile, k_tile, q.width);
    ds.template dot_rows<kWidth>(q_tile + second, k_tile + second, v.width);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int last = offset + first + Scores::row(0, half) - key;  // column of the last key the row sees
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          const float weight = Scores::column(n) + e % 2 <= last ? exp2f(p.at[0][n][e] * c - lse[half]) : 0;
          ds.at[0][n][e] = weight * (ds.at[0][n][e] - mean[half]) * scale;
        }
      }
    }
    dq.add_weighted(ds, k_tile, k.width);
  }
  dq.write(Head<bfloat16>(args.dq, a.queries, a.heads, a.qk_width, b, h), first, queries);
}

// Block (x, y, z): dk and dv of a tile of keys of key head y of sequence z. Tiles of scores have keys as rows here.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) attention_dkv_mma_kernel(AttentionBackwardArgs args, const float* delta) {
  const AttentionArgs& a = args.forward;
  const int64_t b = blockIdx.z, g = blockIdx.y, group = a.heads / a.kv_heads;
  const int first = static_cast<int>(blockIdx.x) * kRows;  // those that most queries see start first
  const int offset = static_cast<int>(a.offset), queries = static_cast<int>(a.queries);
  const int keys = static_cast<int>(a.keys), seen = offset + queries;
  const Head<const bfloat16> k(a.k, a.keys, a.kv_heads, a.qk_width, b, g);
  const Head<const bfloat16> v(a.v, a.keys, a.kv_heads, a.v_width, b, g);

  const int second = kRows * stride_of(k.width), pair = second + kRows * stride_of(v.width);
  bfloat16* k_tile = dynamic_shared<bfloat16>();  // with the values behind it
  bfloat16* q_tiles = k_tile + pair;              // twice queries and do

  const float scale = static_cast<float>(a.scale), c = static_cast<float>(a.scale * 1.4426950408889634);
  // The tiles of queries that see these keys, of all heads of the group in order: tile i is tile i % tiles of head
  // i / tiles.
  const int start = max(first - offset, 0) / kColumns * kColumns;
  const int tiles = start < queries ? (queries - start + kColumns - 1) / kColumns : 0;
  auto copy_tile = [&](int i) {
    const int64_t h = g * group + i / tiles;
    const int query = start + i % tiles * kColumns;
    bfloat16* to = q_tiles + i % 2 * pair;
    copy_rows<kColumns>(to, Head<const bfloat16>(a.q, a.queries, a.heads, a.qk_width, b, h), query, queries);
    copy_rows<kColumns>(to + second, Head<const bfloat16>(args.d_o, a.queries, a.heads, a.v_width, b, h), query,
                        queries);
  };
  copy_rows<kRows>(k_tile, k, first, seen);
  copy_rows<kRows>(k_tile + second, v, first, seen);
  if (tiles > 0) copy_tile(0);
  Fragments<1, kWidth> dk, dv;
  dk.clear();
  dv.clear();
  for (int i = 0; i < group * tiles; ++i) {
    const bfloat16* q_tile = q_tiles + i % 2 * pair;
    wait_for_copies();
    __syncthreads();  // this tile is there, the one before has been read
    if (i + 1 < group * tiles) copy_tile(i + 1);
    Scores p, ds;
    p.template dot_rows<kWidth>(k_tile, q_tile, k.width);
    ds.template dot_rows<kWidth>(k_tile + second, q_tile + second, v.width);
    const int64_t statistics = (b * a.heads + g * group + i / tiles) * a.queries;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int t = start + i % tiles * kColumns + Scores::column(n) + odd;
        const float lse = t < queries ? static_cast<const float*>(a.lse)[statistics + t] * kLog2e : INFINITY;
        const float mean = t < queries ? delta[statistics + t] : 0;
        const int last = offset + t - first;  // row of the last key the query sees
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& weight = p.at[0][n][2 * half + odd];
          float& slope = ds.at[0][n][2 * half + odd];
          weight = Scores::row(0, half) <= last ? exp2f(weight * c - lse) : 0;
          slope = weight * (slope - mean) * scale;
        }
      }
    }
    dv.add_weighted(p, q_tile + second, v.width);
    dk.add_weighted(ds, q_tile, k.width);
  }
  dk.write(Head<bfloat16>(args.dk, a.keys, a.kv_heads, a.qk_width, b, g), first, keys);
  dv.write(Head<bfloat16>(args.dv, a.keys, a.kv_heads, a.v_width, b, g), first, keys);
}

template <int kWidth>
void run(const AttentionBackwardArgs& args, const float* delta) {
  const AttentionArgs& a = args.forward;
  const auto batch = static_cast<unsigned>(a.batch);
  const int numbers = 3 * kRows * (stride_of(static_cast<int>(a.qk_width)) + stride_of(static_cast<int>(a.v_width)));
  const size_t bytes = numbers * sizeof(bfloat16);
  if (a.queries > 0) {
    const dim3 grid(blocks_for(a.queries, kRows), static_cast<unsigned>(a.heads), batch);
    launch(&attention_dq_mma_kernel<kWidth>, {grid, kThreads, bytes}, args, delta);
  }
  const dim3 grid(blocks_for(a.keys, kRows), static_cast<unsigned>(a.kv_heads), batch);
  launch(&attention_dkv_mma_kernel<kWidth>, {grid, kThreads, bytes}, args, delta);
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& args, const float* delta) {
  if (std::max(args.forward.qk_width, args.forward.v_width) <= 64) return run<64>(args, delta);
  run<128>(args, delta);
}

}  // namespace t6::cuda::tensor_cores
