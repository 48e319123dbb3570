// Attention on CUDA cores: tiles of rows in shared memory as f32, and the two products its kernels are made of.
//
// A block is a square of 16 x 16 threads. Of a tile of scores, thread (r, c) holds rows r + 16 i and columns c + 16 j;
// of a tile of sums, rows r + 16 i and columns 64 m + 4 c ... + 3. So the 16 lanes of half a warp hold whole rows, and
// what one of them needs of a row another one of them has made.
#pragma once

#include <cmath>

#include "ops/attention_cuda/head.cuh"

namespace t6::cuda::tiles {

constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;
constexpr int kPackColumns = 4 * kSide;  // columns of sums in one float4 a thread
constexpr int kMaxWidth = 256;

// Numbers from one row of a tile to the next. An odd count of float4: 16 rows read at one column meet no bank twice.
__host__ __device__ constexpr int stride_of(int64_t width) {
  return static_cast<int>((width + 7) / 8 * 8 + 4);
}

struct Place {
  int r = static_cast<int>(threadIdx.x) / kSide;
  int c = static_cast<int>(threadIdx.x) % kSide;
};

// tile = rows [first, first + kRows); zeros from row `end` and from column `width` on.
template <int kRows, class T>
__device__ inline void load_rows(float* tile, const Head<const T>& x, int first, int end) {
  const int stride = stride_of(x.width);
  if (x.aligned(kPackOf<T>)) {
    constexpr int kPack = kPackOf<T>;
    const int packs = (x.width + 7) / 8 * 8 / kPack;
    for (int at = threadIdx.x; at < kRows * packs; at += kThreads) {
      const int row = at / packs, column = at % packs * kPack;
      Pack<T, kPack> pack{};
      if (first + row < end && column < x.width) pack = load_pack<kPack>(x.row(first + row) + column);
#pragma unroll
      for (int i = 0; i < kPack; i += 4) {
        float* to = tile + row * stride + column + i;
        store_pack(to, Pack<float, 4>{{pack.v[i], pack.v[i + 1], pack.v[i + 2], pack.v[i + 3]}});
      }
    }
    return;
  }
  const int columns = (x.width + 7) / 8 * 8;
  for (int at = threadIdx.x; at < kRows * columns; at += kThreads) {
    const int row = at / columns, column = at % columns;
    const bool inside = first + row < end && column < x.width;
    tile[row * stride + column] = inside ? static_cast<float>(x.row(first + row)[column]) : 0.0f;
  }
}

// scores[i][j] = a[r + 16 i] . b[c + 16 j], of two tiles of one width.
template <int N>
__device__ inline void dot_rows(float (&scores)[N][N], const float* a, const float* b, int width) {
  const Place me;
  const int stride = stride_of(width);
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) scores[i][j] = 0;
  }
  for (int d = 0; d < width; d += 4) {
    Pack<float, 4> x[N], y[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = load_pack<4>(a + (me.r + kSide * i) * stride + d);
      y[i] = load_pack<4>(b + (me.c + kSide * i) * stride + d);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[i][j] += x[i].v[e] * y[j].v[e];
      }
    }
  }
}

// A tile of scores in shared memory. Rows are written and read by the same half of a warp.
template <int N>
__device__ inline void put_weights(float* weights, const float (&scores)[N][N]) {
  const Place me;
  __syncwarp();  // the weights before have been read
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) weights[(me.r + kSide * i) * stride_of(N * kSide) + me.c + kSide * j] = scores[i][j];
  }
  __syncwarp();
}

// A thread's part of a tile of sums.
template <int N, int kPacks>
struct Sums {
  Pack<float, 4> at[N][kPacks];

  __device__ Sums() {
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int m = 0; m < kPacks; ++m) at[i][m] = {};
    }
  }

  __device__ void scale_row(int i, float factor) {
#pragma unroll
    for (int m = 0; m < kPacks; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) at[i][m].v[e] *= factor;
    }
  }

  // at[i] += sum over the rows j of x of weights[r + 16 i][j] x[j]
  __device__ void add_weighted(const float* weights, const float* x, int width) {
    const Place me;
    constexpr int kRows = N * kSide;
    const int stride = stride_of(width);
    for (int j = 0; j < kRows; j += 4) {
      Pack<float, 4> w[N];
#pragma unroll
      for (int i = 0; i < N; ++i) w[i] = load_pack<4>(weights + (me.r + kSide * i) * stride_of(kRows) + j);
#pragma unroll
      for (int m = 0; m < kPacks; ++m) {
        const int column = kPackColumns * m + 4 * me.c;
        if (column >= width) break;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Pack<float, 4> row = load_pack<4>(x + (j + k) * stride + column);
#pragma unroll
          for (int i = 0; i < N; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) at[i][m].v[e] += w[i].v[k] * row.v[e];
          }
        }
      }
    }
  }

  // Rows [first, first + 16 N) of y, up to row `end`.
  template <class T>
  __device__ void write(const Head<T>& y, int first, int end) const {
    const Place me;
    const bool aligned = y.aligned(4);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int row = first + me.r + kSide * i;
      if (row >= end) break;
#pragma unroll
      for (int m = 0; m < kPacks; ++m) {
        const int column = kPackColumns * m + 4 * me.c;
        if (column >= y.width) break;
        T* to = y.row(row) + column;
        Pack<T, 4> pack;
#pragma unroll
        for (int e = 0; e < 4; ++e) store(pack.v[e], at[i][m].v[e]);
        if (aligned) {
          store_pack(to, pack);
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (column + e < y.width) to[e] = pack.v[e];
          }
        }
      }
    }
  }
};

// The largest and the sum over the 16 lanes that hold a row, given to each of them.
__device__ inline float row_max(float value) {
#pragma unroll
  for (int flip = kSide / 2; flip > 0; flip /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, flip));
  return value;
}
__device__ inline float row_sum(float value) {
#pragma unroll
  for (int flip = kSide / 2; flip > 0; flip /= 2) value += __shfl_xor_sync(0xffffffffu, value, flip);
  return value;
}

// Calls f.template operator()<T, rows of a tile over 16, float4 a thread and row of sums>() for the dtype and the
// widths: tiles are of 64 rows, at widths above 128 of 32, so that four of them and one of scores fit sm_80's shared
// memory.
template <class F>
void dispatch(const char* op, const AttentionArgs& a, F&& f) {
  const int64_t width = std::max(a.qk_width, a.v_width);
  T6_CHECK(a.dtype == DType::f32 || a.dtype == DType::bf16, "{}: {} is not built for cuda", op, name_of(a.dtype));
  T6_CHECK(width <= kMaxWidth, "[{}] expected heads of at most {} numbers on cuda, got {}", op, kMaxWidth, width);
  auto by_width = [&]<class T>(T) {
    if (width <= kPackColumns) return f.template operator()<T, 4, 1>();
    if (width <= 2 * kPackColumns) return f.template operator()<T, 4, 2>();
    return f.template operator()<T, 2, 4>();
  };
  if (a.dtype == DType::bf16) return by_width(bfloat16{});
  by_width(float{});
}

}  // namespace t6::cuda::tiles
