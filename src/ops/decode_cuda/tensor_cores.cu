// Scores and values as products of 16 heads by 16 cached rows on tensor cores. Rows pass through a ring of tiles in
// shared memory: factors of heads as they lie in the cache, token factors (or keys and values) by rank, so that the
// rows of a fragment lie side by side. A warp takes 16 rows of a tile for 16 heads and keeps maximum, sum and values of
// its own; warps meet at one barrier a tile, and once more to join.
//
// Of a row at H = 32, D = 64, R = 1, a multiprocessor of an H100 needs some 29 cycles to get the 384 bytes, and as an
// estimate 8 for the products, 6 for other instructions, 15 for shared memory: the bytes are the limit.
#include <algorithm>

#include "ops/async_copy.cuh"
#include "ops/decode_cuda/decode.h"
#include "ops/decode_cuda/shares.cuh"
#include "ops/divisor.h"
#include "ops/exp2.h"
#include "ops/mma.cuh"

namespace t6::cuda::decode_on_tensor_cores {
namespace {

using namespace fragments;

constexpr int kSide = 16;  // heads of a warp, and cache rows
constexpr int kMaxWidth = 320;
constexpr int kStages = 3;  // tiles: one worked on, two on their way
constexpr int kMaxWarps = 8;
constexpr int64_t kBlocks = 264;  // wanted: two a multiprocessor of the largest devices, all at once

struct Sizes : Shares {
  int width, rank_k;
  bool values_are_keys;  // the same rows
  int head_tiles;        // of a block: its warps are head_tiles x row groups
  int row_groups;        // rows = 16 row_groups
  float scale;           // of scores in base two, 1 / R_K in it
  Divisor by_rank_k, by_rank_v, by_k_packs, by_v_packs;
};

// A tile of the cache in shared memory: a [rows, heads, rank] as in the cache, b [rank, rows, stride].
template <bool kFactors>
struct Tile {
  bfloat16 *a_k, *b_k, *a_v, *b_v;

  static __host__ __device__ int numbers(const Sizes& s) {
    return head_numbers(s, s.rank_k) + s.rank_k * s.rows * stride_of(s.width) + head_numbers(s, s.rank_v) +
           (s.values_are_keys ? 0 : s.rank_v * s.rows * stride_of(s.v_width));
  }
  __device__ Tile(bfloat16* at, const Sizes& s)
      : a_k(at),
        b_k(a_k + head_numbers(s, s.rank_k)),
        a_v(b_k + s.rank_k * s.rows * stride_of(s.width)),
        b_v(s.values_are_keys ? b_k : a_v + head_numbers(s, s.rank_v)) {}

  // Asks for rows [first, end) of a unit, no more than a tile, as a group of copies; none is one, too. Token factors of
  // rows that are not there are zeros.
  __device__ void ask(const DecodeArgs& a, const Sizes& s, int unit, int first, int end) const {
    if (const int rows = min(s.rows, end - first); rows > 0) {
      if (kFactors) copy_rows(a_k, CachedRows<bfloat16>(a.a_k, s.heads * s.rank_k, s, unit), first, rows);
      ask_tokens(b_k, CachedRows<bfloat16>(a.b_k, s.rank_k * s.width, s, unit), first, rows, s, s.width, s.by_rank_k,
                 s.by_k_packs);
      if (kFactors) copy_rows(a_v, CachedRows<bfloat16>(a.a_v, s.heads * s.rank_v, s, unit), first, rows);
      if (!s.values_are_keys) {
        ask_tokens(b_v, CachedRows<bfloat16>(a.b_v, s.rank_v * s.v_width, s, unit), first, rows, s, s.v_width,
                   s.by_rank_v, s.by_v_packs);
      }
    }
    end_copy_group();
  }

 private:
  static __host__ __device__ int head_numbers(const Sizes& s, int rank) {
    return kFactors ? rounded_up(s.rows * s.heads * rank, 8) : 0;
  }
  static __device__ void ask_tokens(bfloat16* to, const CachedRows<bfloat16>& x, int first, int rows, const Sizes& s,
                                    int width, const Divisor& by_rank, const Divisor& by_packs) {
    const int rank = static_cast<int>(by_rank.by), packs = static_cast<int>(by_packs.by);
    const bfloat16* from = x.row(first);
    for (int i = static_cast<int>(threadIdx.x); i < s.rows * rank * packs; i += static_cast<int>(blockDim.x)) {
      const int factor = by_packs.quotient(i), column = by_packs.remainder(i, factor) * 8;
      const int row = by_rank.quotient(factor), r = by_rank.remainder(factor, row);
      const bool zero = row >= rows || column >= width;
      copy_16(to + (r * s.rows + row) * stride_of(width) + column,
              zero ? from : from + row * x.stride + r * width + column, zero);
    }
  }
};

// What a warp keeps of its heads: of the two rows of fragments that a lane is at, the largest score and the sum, and
// its columns of the values.
template <int kWidth>
struct Running {
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  float values[kWidth / 8][4] = {};

  __device__ void scale(int half, float factor) {
    sum[half] *= factor;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) values[n][2 * half] *= factor, values[n][2 * half + 1] *= factor;
  }
};

// The 16 rows of a tile from row `first` on, of which `rows` are there, at least one. q: 16 heads; heads: which the two
// rows of a lane are.
template <bool kFactors, int kWidth>
__device__ inline void add_rows(Running<kWidth>& running, const Tile<kFactors>& tile, const bfloat16* q,
                                const int (&heads)[2], int first, int rows, const Sizes& s) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto row_of = [&](int n, int e) { return 8 * n + 2 * (lane % 4) + e % 2; };
  const auto factor = [&](const bfloat16* a, int rank, int r, int n, int e) {
    return kFactors ? static_cast<float>(a[((first + row_of(n, e)) * s.heads + heads[e / 2]) * rank + r]) : 1.0f;
  };

  float p[2][4] = {};  // 16 heads by twice 8 rows
  for (int r = 0; r < s.rank_k; ++r) {
    float dots[2][4] = {};
    const bfloat16* b =
        tile.b_k + (r * s.rows + first + lane / 16 * 8 + lane % 8) * stride_of(s.width) + lane / 8 % 2 * 8;
#pragma unroll
    for (int d = 0; d < kWidth; d += kSide) {
      if (d >= s.width) break;
      unsigned of_heads[4], columns[4];
      load_matrices<false>(of_heads, q + lane % 16 * stride_of(s.width) + lane / 16 * 8 + d);
      load_matrices<false>(columns, b + d);
      mma(dots[0], of_heads, {columns[0], columns[1]});
      mma(dots[1], of_heads, {columns[2], columns[3]});
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) p[n][e] += factor(tile.a_k, s.rank_k, r, n, e) * dots[n][e];
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = running.max[half];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        p[n][e] = row_of(n, e) < rows ? p[n][e] * s.scale : -INFINITY;
        top = fmaxf(top, p[n][e]);
      }
    }
    top = row_max(top);
    running.scale(half, exp2f(running.max[half] - top));
    running.max[half] = top;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        p[n][e] = exp2f(p[n][e] - top);
        running.sum[half] += p[n][e];
      }
    }
  }

  for (int r = 0; r < s.rank_v; ++r) {
    unsigned weights[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float pair[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int n = i / 2, e = 2 * (i % 2) + j;
        pair[j] = row_of(n, e) < rows ? p[n][e] * factor(tile.a_v, s.rank_v, r, n, e) : 0.0f;
      }
      weights[i] = round_pair(pair[0], pair[1]);
    }
    const bfloat16* b = tile.b_v + (r * s.rows + first + lane % 16) * stride_of(s.v_width) + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < kWidth / 8; n += 2) {
      if (8 * n >= s.v_width) break;
      unsigned columns[4];
      load_matrices<true>(columns, b + 8 * n);
      mma(running.values[n], weights, {columns[0], columns[1]});
      mma(running.values[n + 1], weights, {columns[2], columns[3]});
    }
  }
}

template <int kWidth>
__host__ __device__ constexpr int joined_floats(int head_tiles, int row_groups) {
  return (row_groups - 1) * head_tiles * kWarp * (kWidth / 2 + 4);
}
// Joins what the warps of one tile of heads keep, in the order of their rows, into the first one's. `numbers` has
// joined_floats() of them.
template <int kWidth>
__device__ inline void join_groups(Running<kWidth>& running, float* numbers, int group, int head_tile, const Sizes& s) {
  const auto number_of = [&](int of_group, int i) -> float& {
    const int warp = (of_group - 1) * s.head_tiles + head_tile;
    return numbers[(warp * (kWidth / 2 + 4) + i) * kWarp + static_cast<int>(threadIdx.x) % kWarp];
  };
  if (group > 0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      number_of(group, half) = running.max[half];
      number_of(group, 2 + half) = running.sum[half];
    }
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) number_of(group, 4 + i) = running.values[i / 4][i % 4];
  }
  __syncthreads();
  for (int other = 1; group == 0 && other < s.row_groups; ++other) {
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float max = number_of(other, half), top = fmaxf(running.max[half], max);
      running.scale(half, exp2f(running.max[half] - top));
      factors[half] = exp2f(max - top);
      running.max[half] = top;
      running.sum[half] += factors[half] * number_of(other, 2 + half);
    }
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) running.values[i / 4][i % 4] += factors[i % 4 / 2] * number_of(other, 4 + i);
  }
}

// Block (x, y, z): split z of the rows that unit x sees, for group y of head tiles.
template <bool kFactors, int kWidth>
__global__ void __launch_bounds__(kMaxWarps* kWarp, kWidth > 64 ? 1 : 2)
    decode_mma_kernel(DecodeArgs a, Sizes s, float* partials) {
  const int unit = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.z);
  const Share share(s, a, unit, split);
  if (share.begin >= share.end) return;
  const int first_of_block = static_cast<int>(blockIdx.y) * s.head_tiles * kSide;
  bfloat16* q = dynamic_shared<bfloat16>();  // [head tiles x 16, stride]
  bfloat16* tiles = q + s.head_tiles * kSide * stride_of(s.width);
  const auto tile_at = [&](int turn) { return Tile<kFactors>(tiles + turn * Tile<kFactors>::numbers(s), s); };
  const auto ask = [&](int turn, int row) { tile_at(turn).ask(a, s, unit, row, share.end); };

  const bfloat16* queries = static_cast<const bfloat16*>(a.q) + static_cast<int64_t>(unit) * s.heads * s.width;
  const int q_packs = static_cast<int>(s.by_k_packs.by);
  for (int i = static_cast<int>(threadIdx.x); i < s.head_tiles * kSide * q_packs; i += static_cast<int>(blockDim.x)) {
    const int row = s.by_k_packs.quotient(i), column = s.by_k_packs.remainder(i, row) * 8;
    const int head = first_of_block + row;
    const bool zero = head >= s.heads || column >= s.width;
    copy_16(q + row * stride_of(s.width) + column, zero ? queries : queries + head * s.width + column, zero);
  }
#pragma unroll
  for (int turn = 0; turn < kStages - 1; ++turn) ask(turn, share.begin + turn * s.rows);

  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int head_tile = warp % s.head_tiles, group = warp / s.head_tiles;
  const int first_head = first_of_block + head_tile * kSide + lane / 4;
  // Heads that are not there have the factors of the last one and are not written.
  const int heads[2] = {min(first_head, s.heads - 1), min(first_head + 8, s.heads - 1)};
  const bfloat16* my_q = q + head_tile * kSide * stride_of(s.width);

  Running<kWidth> running;
  int turn = 0;
  for (int row = share.begin; row < share.end; row += s.rows) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // this tile is there, and nobody reads the one before
    ask(turn == 0 ? kStages - 1 : turn - 1, row + (kStages - 1) * s.rows);
    const int first = group * kSide, rows = min(s.rows, share.end - row) - first;
    if (rows > 0) add_rows<kFactors, kWidth>(running, tile_at(turn), my_q, heads, first, rows, s);
    turn = turn == kStages - 1 ? 0 : turn + 1;
  }
  wait_for_copies();
  __syncthreads();  // the tiles are free
#pragma unroll
  for (int half = 0; half < 2; ++half) running.sum[half] = row_sum(running.sum[half]);
  join_groups<kWidth>(running, dynamic_shared<float>(), group, head_tile, s);

  if (group > 0) return;
  const Partial partial(partials, s, unit, split);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int head = first_head + 8 * half;
    if (head >= s.heads) continue;
    if (lane % 4 == 0) {
      partial.max[head] = running.max[half];
      partial.sum[head] = running.sum[half];
    }
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      if (8 * n >= s.v_width) break;
      const Pack<float, 2> pair{{running.values[n][2 * half], running.values[n][2 * half + 1]}};
      store_pack(partial.out + head * s.v_width + 8 * n + 2 * (lane % 4), pair);
    }
  }
}

// What kernels are built for: the width of rows, of q and values alike.
template <class F>
auto by_width(const DecodeArgs& a, F&& f) {
  const int64_t width = std::max(a.width, a.v_width);
  if (width <= 64) return f(std::integral_constant<int, 64>());
  if (width <= 128) return f(std::integral_constant<int, 128>());
  return f(std::integral_constant<int, kMaxWidth>());
}

size_t shared_bytes(const DecodeArgs& a, const Sizes& s) {
  const int q = s.head_tiles * kSide * stride_of(s.width);
  const int tile = a.a_k != nullptr ? Tile<true>::numbers(s) : Tile<false>::numbers(s);
  const int joined = by_width(a, [&](auto width) { return joined_floats<width>(s.head_tiles, s.row_groups); });
  return std::max(static_cast<size_t>(q + kStages * tile) * sizeof(bfloat16),
                  static_cast<size_t>(joined) * sizeof(float));
}

// As many rows a tile as two blocks a multiprocessor can have, up to 64.
Sizes sizes_of(const DecodeArgs& a) {
  Sizes s{};
  s.width = static_cast<int>(a.width);
  s.rank_k = static_cast<int>(a.rank_k);
  s.scale = static_cast<float>(a.scale * kLog2e / static_cast<double>(a.rank_k));
  s.by_rank_k = Divisor(a.rank_k);
  s.by_rank_v = Divisor(a.rank_v);
  s.by_k_packs = Divisor(rounded(s.width) / 8);
  s.by_v_packs = Divisor(rounded(static_cast<int>(a.v_width)) / 8);
  s.values_are_keys = a.b_k == a.b_v && a.width == a.v_width && a.rank_k == a.rank_v;
  const int tiles = rounded_up(a.heads, kSide) / kSide, blocks = (tiles + kMaxWarps - 1) / kMaxWarps;
  s.head_tiles = (tiles + blocks - 1) / blocks;
  s.row_groups = std::clamp(kMaxWarps / s.head_tiles, 1, 4);
  const size_t comfortable = max_shared_bytes() / 2 - kSharedBytesOfABlock;
  const auto take_rows = [&] { static_cast<Shares&>(s) = Shares(a, kSide * s.row_groups, kBlocks / blocks); };
  for (take_rows(); s.row_groups > 1 && shared_bytes(a, s) > comfortable; take_rows()) --s.row_groups;
  return s;
}

}  // namespace

bool takes(const DecodeArgs& a) {
  const bool packs = a.width % 8 == 0 && a.v_width % 8 == 0 && aligned_to(16, a.q, a.b_k, a.b_v);
  return a.dtype == DType::bf16 && packs && std::max(a.width, a.v_width) <= kMaxWidth &&
         shared_bytes(a, sizes_of(a)) <= max_shared_bytes();
}

void run(const DecodeArgs& a) {
  const Sizes s = sizes_of(a);
  const Partials partials(s);
  const LaunchShape shape{
      dim3(static_cast<unsigned>(s.units), blocks_for(a.heads, kSide * s.head_tiles), static_cast<unsigned>(s.splits)),
      static_cast<unsigned>(s.head_tiles * s.row_groups * kWarp), shared_bytes(a, s)};
  by_width(a, [&](auto width) {
    auto* kernel = a.a_k != nullptr ? &decode_mma_kernel<true, width> : &decode_mma_kernel<false, width>;
    launch(kernel, shape, a, s, partials.data());
  });
  join_partials(a, s, partials);
}

}  // namespace t6::cuda::decode_on_tensor_cores
