// Attention on tensor cores: tiles of rows in shared memory as bf16, and the two products its kernels are made of, on
// fragments (ops/mma.cuh). A block is four warps; each holds whole rows of the tile of scores.
#pragma once

#include "ops/async_copy.cuh"
#include "ops/attention_cuda/head.cuh"
#include "ops/mma.cuh"

namespace t6::cuda::fragments {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kColumns = 64;  // keys, or queries, that a tile of rows meets at a time

// Begins tile = rows [first, first + kRows); zeros from row `end` and from column `width` on.
template <int kRows>
__device__ inline void copy_rows(bfloat16* tile, const Head<const bfloat16>& x, int first, int end) {
  const int packs = rounded(x.width) / 8;
  for (int at = threadIdx.x; at < kRows * packs; at += kThreads) {
    const int row = at / packs, column = at % packs * 8;
    const bool zero = first + row >= end || column >= x.width;
    copy_16(tile + row * stride_of(x.width) + column, zero ? x.data : x.row(first + row) + column, zero);
  }
}

// A warp's R x 16 rows of kWidth numbers. Number e of at[r][n] is at row row(r, e / 2), column column(n) + e % 2.
template <int R, int kWidth>
struct Fragments {
  float at[R][kWidth / 8][4];

  __device__ static int row(int r, int half) {
    return static_cast<int>(threadIdx.x) / kWarp * 16 * R + 16 * r + static_cast<int>(threadIdx.x) % kWarp / 4 +
           8 * half;
  }
  __device__ static int column(int n) { return 8 * n + 2 * (static_cast<int>(threadIdx.x) % 4); }

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) at[r][n][e] = 0;
      }
    }
  }

  __device__ void scale_row(int r, int half, float factor) {
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      at[r][n][2 * half] *= factor;
      at[r][n][2 * half + 1] *= factor;
    }
  }

  // at = a . b^T: this warp's rows of tile a against the kWidth rows of tile b, both of `width` <= kDepth columns.
  template <int kDepth>
  __device__ void dot_rows(const bfloat16* a, const bfloat16* b, int width) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, stride = stride_of(width);
    const bfloat16* a_row = a + (row(0, 0) - lane / 4 + lane % 16) * stride + lane / 16 * 8;
    const bfloat16* b_row = b + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
    clear();
#pragma unroll
    for (int d = 0; d < kDepth; d += 16) {
      if (d >= width) break;
      unsigned rows[R][4];
#pragma unroll
      for (int r = 0; r < R; ++r) load_matrices<false>(rows[r], a_row + 16 * r * stride + d);
#pragma unroll
      for (int n = 0; n < kWidth / 8; n += 2) {
        unsigned columns[4];
        load_matrices<false>(columns, b_row + 8 * n * stride + d);
#pragma unroll
        for (int r = 0; r < R; ++r) {
          mma(at[r][n], rows[r], {columns[0], columns[1]});
          mma(at[r][n + 1], rows[r], {columns[2], columns[3]});
        }
      }
    }
  }

  // at += weights . x: the weights rounded to bf16, x a tile of kColumns rows and `width` <= kWidth columns.
  __device__ void add_weighted(const Fragments<R, kColumns>& weights, const bfloat16* x, int width) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, stride = stride_of(width);
    const bfloat16* x_row = x + lane % 16 * stride + lane / 16 * 8;
#pragma unroll
    for (int j = 0; j < kColumns / 16; ++j) {
      unsigned rows[R][4];
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&pair)[4] = weights.at[r][2 * j + i / 2];
          rows[r][i] = round_pair(pair[2 * (i % 2)], pair[2 * (i % 2) + 1]);
        }
      }
#pragma unroll
      for (int n = 0; n < kWidth / 8; n += 2) {
        if (8 * n >= width) break;
        unsigned columns[4];
        load_matrices<true>(columns, x_row + 16 * j * stride + 8 * n);
#pragma unroll
        for (int r = 0; r < R; ++r) {
          mma(at[r][n], rows[r], {columns[0], columns[1]});
          mma(at[r][n + 1], rows[r], {columns[2], columns[3]});
        }
      }
    }
  }

  // Rows [first, first + those of the block) of y, up to row `end`.
  __device__ void write(const Head<bfloat16>& y, int first, int end) const {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = first + row(r, half);
        if (i >= end) continue;
        bfloat16* to = y.row(i);
#pragma unroll
        for (int n = 0; n < kWidth / 8; ++n) {
          if (8 * n >= y.width) break;
          *reinterpret_cast<unsigned*>(to + column(n)) = round_pair(at[r][n][2 * half], at[r][n][2 * half + 1]);
        }
      }
    }
  }
};

}  // namespace t6::cuda::fragments
