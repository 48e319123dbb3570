#include "ops/attention_cuda/own.h"
#include "ops/attention_cuda/tensor_cores.h"
#include "ops/attention_cuda/tiles.cuh"
#include "ops/reduce.cuh"
#include "tensor/storage.h"

// With P from the saved log-sum-exp and delta[t] = do[t] . o[t]:
//
//   dS[t, j] = P[t, j] (do[t] . v[j] - delta[t]) scale
//   dq[t] = sum_j dS[t, j] k[j]                        one pass over tiles of queries
//   dk[j] = sum_t dS[t, j] q[t], dv[j] = sum_t P[t, j] do[t]    one pass over tiles of keys, heads of a group in order
namespace t6::cuda::own {
namespace {

using namespace tiles;

// delta [batch, heads, queries]; one warp a row.
template <class T>
__global__ void __launch_bounds__(kThreads) attention_delta_kernel(AttentionBackwardArgs args, float* delta) {
  const AttentionArgs& a = args.forward;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;  // [b, t, h]
  if (at >= a.batch * a.queries * a.heads) return;
  const T* o = static_cast<const T*>(a.o) + at * a.v_width;
  const T* d_o = static_cast<const T*>(args.d_o) + at * a.v_width;
  float sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < a.v_width; i += kWarp) {
    sum += static_cast<float>(o[i]) * static_cast<float>(d_o[i]);
  }
  sum = warp_sum(sum);
  const int64_t h = at % a.heads, t = at / a.heads % a.queries, b = at / a.heads / a.queries;
  if (threadIdx.x % kWarp == 0) delta[(b * a.heads + h) * a.queries + t] = sum;
}

// Block (x, y, z): dq of a tile of queries of head y of sequence z.
template <class T, int N, int kPacks>
__global__ void __launch_bounds__(kThreads) attention_dq_kernel(AttentionBackwardArgs args, const float* delta) {
  constexpr int kRows = N * kSide;
  const AttentionArgs& a = args.forward;
  const Place me;
  const int64_t b = blockIdx.z, h = blockIdx.y, g = h / (a.heads / a.kv_heads);
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const int offset = static_cast<int>(a.offset), queries = static_cast<int>(a.queries);
  const int seen = offset + min(first + kRows, queries);
  const int qk_width = static_cast<int>(a.qk_width), v_width = static_cast<int>(a.v_width);
  const Head<const T> q(a.q, a.queries, a.heads, a.qk_width, b, h);
  const Head<const T> d_o(args.d_o, a.queries, a.heads, a.v_width, b, h);
  const Head<const T> k(a.k, a.keys, a.kv_heads, a.qk_width, b, g);
  const Head<const T> v(a.v, a.keys, a.kv_heads, a.v_width, b, g);

  float* q_tile = dynamic_shared<float>();
  float* k_tile = q_tile + kRows * stride_of(qk_width);
  float* do_tile = k_tile + kRows * stride_of(qk_width);
  float* v_tile = do_tile + kRows * stride_of(v_width);
  float* weights = v_tile + kRows * stride_of(v_width);

  const float scale = static_cast<float>(a.scale), c = static_cast<float>(a.scale * 1.4426950408889634);
  float lse[N], mean[N];  // lse in powers of two
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int row = first + me.r + kSide * i;
    const int64_t at = (b * a.heads + h) * a.queries + row;
    lse[i] = row < queries ? static_cast<const float*>(a.lse)[at] * kLog2e : 0;
    mean[i] = row < queries ? delta[at] : 0;
  }
  load_rows<kRows>(q_tile, q, first, queries);
  load_rows<kRows>(do_tile, d_o, first, queries);
  Sums<N, kPacks> dq;
  for (int key = 0; key < seen; key += kRows) {
    __syncthreads();
    load_rows<kRows>(k_tile, k, key, seen);
    load_rows<kRows>(v_tile, v, key, seen);
    __syncthreads();
    float p[N][N], ds[N][N];
    dot_rows(p, q_tile, k_tile, qk_width);
    dot_rows(ds, do_tile, v_tile, v_width);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int last = offset + first + me.r + kSide * i - key;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float weight = me.c + kSide * j <= last ? exp2f(p[i][j] * c - lse[i]) : 0;
        ds[i][j] = weight * (ds[i][j] - mean[i]) * scale;
      }
    }
    put_weights(weights, ds);
    dq.add_weighted(weights, k_tile, qk_width);
  }
  dq.write(Head<T>(args.dq, a.queries, a.heads, a.qk_width, b, h), first, queries);
}

// Block (x, y, z): dk and dv of a tile of keys of key head y of sequence z. Tiles of scores have keys as rows here.
template <class T, int N, int kPacks>
__global__ void __launch_bounds__(kThreads) attention_dkv_kernel(AttentionBackwardArgs args, const float* delta) {
  constexpr int kRows = N * kSide;
  const AttentionArgs& a = args.forward;
  const Place me;
  const int64_t b = blockIdx.z, g = blockIdx.y, group = a.heads / a.kv_heads;
  const int first = static_cast<int>(blockIdx.x) * kRows;  // those that most queries see start first
  const int offset = static_cast<int>(a.offset), queries = static_cast<int>(a.queries);
  const int keys = static_cast<int>(a.keys), seen = offset + queries;
  const int qk_width = static_cast<int>(a.qk_width), v_width = static_cast<int>(a.v_width);
  const Head<const T> k(a.k, a.keys, a.kv_heads, a.qk_width, b, g);
  const Head<const T> v(a.v, a.keys, a.kv_heads, a.v_width, b, g);

  float* k_tile = dynamic_shared<float>();
  float* q_tile = k_tile + kRows * stride_of(qk_width);
  float* v_tile = q_tile + kRows * stride_of(qk_width);
  float* do_tile = v_tile + kRows * stride_of(v_width);
  float* weights = do_tile + kRows * stride_of(v_width);

  const float scale = static_cast<float>(a.scale), c = static_cast<float>(a.scale * 1.4426950408889634);
  load_rows<kRows>(k_tile, k, first, seen);
  load_rows<kRows>(v_tile, v, first, seen);
  Sums<N, kPacks> dk, dv;
  for (int64_t h = g * group; h < (g + 1) * group; ++h) {
    const Head<const T> q(a.q, a.queries, a.heads, a.qk_width, b, h);
    const Head<const T> d_o(args.d_o, a.queries, a.heads, a.v_width, b, h);
    const int64_t statistics = (b * a.heads + h) * a.queries;
    for (int query = max(first - offset, 0) / kRows * kRows; query < queries; query += kRows) {
      __syncthreads();
      load_rows<kRows>(q_tile, q, query, queries);
      load_rows<kRows>(do_tile, d_o, query, queries);
      __syncthreads();
      float p[N][N], ds[N][N];
      dot_rows(p, k_tile, q_tile, qk_width);
      dot_rows(ds, v_tile, do_tile, v_width);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const int t = query + me.c + kSide * j;
        const float lse = t < queries ? static_cast<const float*>(a.lse)[statistics + t] * kLog2e : INFINITY;
        const float mean = t < queries ? delta[statistics + t] : 0;
        const int last = offset + t - first;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          p[i][j] = me.r + kSide * i <= last ? exp2f(p[i][j] * c - lse) : 0;
          ds[i][j] = p[i][j] * (ds[i][j] - mean) * scale;
        }
      }
      put_weights(weights, p);
      dv.add_weighted(weights, do_tile, v_width);
      put_weights(weights, ds);
      dk.add_weighted(weights, q_tile, qk_width);
    }
  }
  dk.write(Head<T>(args.dk, a.keys, a.kv_heads, a.qk_width, b, g), first, keys);
  dv.write(Head<T>(args.dv, a.keys, a.kv_heads, a.v_width, b, g), first, keys);
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  if (a.batch == 0 || a.keys == 0 || a.heads == 0) return;
  T6_CHECK(a.lse != nullptr, "[attention_backward] expected the log-sum-exp of the forward, got none");
  // Freed in the order of the device's work, behind the kernels.
  const int64_t rows = a.batch * a.heads * a.queries;
  const auto memory = Storage::allocate(static_cast<size_t>(rows) * sizeof(float), Device{Device::Kind::cuda, 0});
  float* delta = reinterpret_cast<float*>(memory->data());
  dispatch("attention_backward", a, [&]<class T, int N, int kPacks>() {
    constexpr int kRows = N * kSide;
    const auto batch = static_cast<unsigned>(a.batch);
    const size_t bytes =
        kRows * (2 * (stride_of(a.qk_width) + stride_of(a.v_width)) + stride_of(kRows)) * sizeof(float);
    if (rows > 0) launch(&attention_delta_kernel<T>, {blocks_for(rows, kThreads / kWarp), kThreads}, args, delta);
    if (tensor_cores::takes(args)) return tensor_cores::attention_backward(args, delta);
    if (rows > 0) {
      const dim3 grid(blocks_for(a.queries, kRows), static_cast<unsigned>(a.heads), batch);
      launch(&attention_dq_kernel<T, N, kPacks>, {grid, kThreads, bytes}, args, delta);
    }
    const dim3 grid(blocks_for(a.keys, kRows), static_cast<unsigned>(a.kv_heads), batch);
    launch(&attention_dkv_kernel<T, N, kPacks>, {grid, kThreads, bytes}, args, delta);
  });
}

}  // namespace t6::cuda::own
