// Each block takes a share of a unit's rows, for a group of heads, so that every byte of the cache is read once a
// group: with factors (R_K + R_V)(H + D) numbers a row. Tiles of rows pass through shared memory as they lie in the
// cache, the next one on its way while one is worked on.
//
// A row costs (R_K + R_V) H D multiply-adds on the CUDA cores, 4096 at H = 32, D = 64, R = 1, with one other
// instruction beside three of them: some 60 cycles of a multiprocessor of an H100, where its bytes take 29 in bf16. So
// the arithmetic is the limit, not the memory; tensor_cores.cu lifts it.
#include <algorithm>

#include "ops/async_copy.cuh"
#include "ops/decode_cuda/decode.h"
#include "ops/decode_cuda/shares.cuh"
#include "ops/divisor.h"
#include "ops/exp2.h"
#include "ops/pack.cuh"

namespace t6::cuda::decode_on_cuda_cores {
namespace {

constexpr int kSide = 4;  // of the square of numbers that a thread sums in registers
constexpr int kMaxThreads = 512;
constexpr int64_t kBlocks = 528;  // wanted at once: four a multiprocessor of the largest devices

// Heads are worked on in groups of `group` (whole sides), one block each.
struct Sizes : Shares {
  int width, rank_k;
  bool factors;  // of heads; without them they are ones
  int group;
  int slices;   // threads that share a head's softmax
  float scale;  // of scores in base two, 1 / R_K in it
  Divisor by_group, by_head_tiles, by_columns;
};

// A tile of the cache in shared memory, each of its parts in whole 16 bytes.
template <class T>
struct Tile {
  T *a_k, *b_k, *a_v, *b_v;

  static __host__ __device__ int padded(int count) { return (count + kPackOf<T> - 1) / kPackOf<T> * kPackOf<T>; }
  static __host__ __device__ int numbers(const Sizes& s) {
    return head_numbers(s, s.rank_k) + padded(s.rows * s.rank_k * s.width) + head_numbers(s, s.rank_v) +
           padded(s.rows * s.rank_v * s.v_width);
  }
  __device__ Tile(T* at, const Sizes& s)
      : a_k(at),
        b_k(a_k + head_numbers(s, s.rank_k)),
        a_v(b_k + padded(s.rows * s.rank_k * s.width)),
        b_v(a_v + head_numbers(s, s.rank_v)),
        factors_(s.factors) {}

  // Asks for rows [first, first + rows) of a unit.
  __device__ void ask(const DecodeArgs& a, const Sizes& s, int unit, int first, int rows) const {
    if (s.factors) copy_rows(a_k, CachedRows<T>(a.a_k, s.heads * s.rank_k, s, unit), first, rows);
    copy_rows(b_k, CachedRows<T>(a.b_k, s.rank_k * s.width, s, unit), first, rows);
    if (s.factors) copy_rows(a_v, CachedRows<T>(a.a_v, s.heads * s.rank_v, s, unit), first, rows);
    copy_rows(b_v, CachedRows<T>(a.b_v, s.rank_v * s.v_width, s, unit), first, rows);
  }
  // Number `at` of a_k or a_v.
  __device__ float factor(const T* a, int at) const { return factors_ ? static_cast<float>(a[at]) : 1.0f; }

 private:
  static __host__ __device__ int head_numbers(const Sizes& s, int rank) {
    return s.factors ? padded(s.rows * s.heads * rank) : 0;
  }
  bool factors_;
};

// Four numbers from column `column` of a row of `width`; behind its end zeros. With kPacks there are four.
template <bool kPacks, class T>
__device__ void load_side(const T* row, int column, int width, float (&x)[kSide]) {
  if constexpr (kPacks) {
    load_floats(row + column, x);
  } else {
#pragma unroll
    for (int j = 0; j < kSide; ++j) x[j] = column + j < width ? static_cast<float>(row[column + j]) : 0.0f;
  }
}

// scores [rows, group] of a tile. A thread makes those of four rows and four heads, each a stride apart so that its
// neighbours read neighbouring 16 bytes; q stands as [width/4, group, 4].
template <bool kPacks, class T>
__device__ void score(const Tile<T>& tile, const float* q, float* scores, int first_head, const Sizes& s) {
  const int head_tiles = s.group / kSide, row_tiles = s.rows / kSide;
  for (int item = static_cast<int>(threadIdx.x); item < head_tiles * row_tiles; item += static_cast<int>(blockDim.x)) {
    const int row = s.by_head_tiles.quotient(item), head = s.by_head_tiles.remainder(item, row);
    float sums[kSide][kSide] = {};
    for (int r = 0; r < s.rank_k; ++r) {
      float dots[kSide][kSide] = {};
      for (int d = 0; d < s.width; d += kSide) {
        float x[kSide][kSide], y[kSide][kSide];
#pragma unroll
        for (int i = 0; i < kSide; ++i) {
          load_side<kPacks>(tile.b_k + ((row + i * row_tiles) * s.rank_k + r) * s.width, d, s.width, x[i]);
          load_floats(q + d * s.group + (head + i * head_tiles) * kSide, y[i]);
        }
#pragma unroll
        for (int i = 0; i < kSide; ++i) {
#pragma unroll
          for (int j = 0; j < kSide; ++j) {
#pragma unroll
            for (int k = 0; k < kSide; ++k) dots[i][j] += x[i][k] * y[j][k];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        const int at = ((row + i * row_tiles) * s.heads + first_head) * s.rank_k + r;
#pragma unroll
        for (int j = 0; j < kSide; ++j) {
          const int h = head + j * head_tiles;
          if (first_head + h < s.heads) sums[i][j] += tile.factor(tile.a_k, at + h * s.rank_k) * dots[i][j];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
#pragma unroll
      for (int j = 0; j < kSide; ++j) {
        scores[(row + i * row_tiles) * s.group + head + j * head_tiles] = sums[i][j];
      }
    }
  }
}

// Block (x, y, z): split z of the rows that unit x sees, for group y of heads.
template <class T, bool kPacks>
__global__ void __launch_bounds__(kMaxThreads) decode_kernel(DecodeArgs a, Sizes s, float* partials) {
  const int unit = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.z);
  const int first_head = static_cast<int>(blockIdx.y) * s.group, me = static_cast<int>(threadIdx.x);
  const Share share(s, a, unit, split);
  if (share.begin >= share.end) return;

  const int sides = (s.width + kSide - 1) / kSide;
  float* q = dynamic_shared<float>();                          // [sides, group, 4]
  float* scores = q + sides * kSide * s.group;                 // [rows, group]
  float* weights = scores + s.rows * s.group;                  // [rows, rank_v, group]
  float* corrections = weights + s.rows * s.rank_v * s.group;  // [group]
  float* of_slices = corrections + s.group;                    // [slices, group]
  T* tiles = reinterpret_cast<T*>(of_slices + s.slices * s.group);
  // Two tiles, by turns. Not an array of them: the compiler must see that they lie in shared memory.
  const auto tile_at = [&](int turn) { return Tile<T>(tiles + turn * Tile<T>::numbers(s), s); };

  tile_at(0).ask(a, s, unit, share.begin, min(s.rows, share.end - share.begin));
  const T* queries = static_cast<const T*>(a.q) + (static_cast<int64_t>(unit) * s.heads + first_head) * s.width;
  for (int i = me; i < sides * kSide * s.group; i += static_cast<int>(blockDim.x)) {
    const int rest = i / kSide, side = s.by_group.quotient(rest), head = s.by_group.remainder(rest, side);
    const int d = side * kSide + i % kSide;
    const bool there = first_head + head < s.heads && d < s.width;
    q[i] = there ? static_cast<float>(queries[head * s.width + d]) * s.scale : 0.0f;
  }

  // Of the softmax: head my_head, rows my_slice, my_slice + slices, ...
  const int my_slice = s.by_group.quotient(me), my_head = s.by_group.remainder(me, my_slice);
  const bool softens = my_slice < s.slices, has_head = first_head + my_head < s.heads;
  float max_so_far = -INFINITY, sum = 0;
  // Of the values: four heads by four columns.
  const int head_tile = s.by_columns.quotient(me) * kSide,
            column = s.by_columns.remainder(me, head_tile / kSide) * kSide;
  const bool sums_values = head_tile < s.group;
  float values[kSide][kSide] = {};

  int at = 0;
  for (int row = share.begin; row < share.end; row += s.rows, at ^= 1) {
    const Tile<T> tile = tile_at(at);
    const int rows = min(s.rows, share.end - row), next = row + s.rows;
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody reads the one before
    if (next < share.end) tile_at(at ^ 1).ask(a, s, unit, next, min(s.rows, share.end - next));
    score<kPacks>(tile, q, scores, first_head, s);
    __syncthreads();

    if (softens) {
      float max_here = -INFINITY;
      for (int m = my_slice; m < rows; m += s.slices) max_here = fmaxf(max_here, scores[m * s.group + my_head]);
      of_slices[me] = max_here;
    }
    __syncthreads();
    if (softens) {
      const float before = max_so_far;
      for (int i = 0; i < s.slices; ++i) max_so_far = fmaxf(max_so_far, of_slices[i * s.group + my_head]);
      const float correction = exp2f(before - max_so_far);
      if (my_slice == 0) corrections[my_head] = correction;
      sum *= correction;
      for (int m = my_slice; m < rows; m += s.slices) {
        const float p = exp2f(scores[m * s.group + my_head] - max_so_far);
        sum += p;
        for (int r = 0; r < s.rank_v; ++r) {
          const int number = (m * s.heads + first_head + my_head) * s.rank_v + r;
          weights[(m * s.rank_v + r) * s.group + my_head] = has_head ? p * tile.factor(tile.a_v, number) : 0.0f;
        }
      }
    }
    __syncthreads();
    if (sums_values) {
      const auto correction = load_pack<kSide>(corrections + head_tile);
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
#pragma unroll
        for (int j = 0; j < kSide; ++j) values[i][j] *= correction.v[i];
      }
#pragma unroll 4
      for (int m = 0; m < rows * s.rank_v; ++m) {
        const auto w = load_pack<kSide>(weights + m * s.group + head_tile);
        float x[kSide];
        load_side<kPacks>(tile.b_v + m * s.v_width, column, s.v_width, x);
#pragma unroll
        for (int i = 0; i < kSide; ++i) {
#pragma unroll
          for (int j = 0; j < kSide; ++j) values[i][j] += w.v[i] * x[j];
        }
      }
    }
  }

  const Partial partial(partials, s, unit, split);
  __syncthreads();
  if (softens) of_slices[me] = sum;
  __syncthreads();
  if (softens && my_slice == 0 && has_head) {
    for (int i = 1; i < s.slices; ++i) sum += of_slices[i * s.group + my_head];
    partial.max[first_head + my_head] = max_so_far;
    partial.sum[first_head + my_head] = sum;
  }
  if (!sums_values) return;
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
    const int head = first_head + head_tile + i;
    if (head >= s.heads) break;
    float* out = partial.out + head * s.v_width + column;
    if constexpr (kPacks) {
      store_floats(out, values[i]);
    } else {
      for (int j = 0; j < kSide && column + j < s.v_width; ++j) out[j] = values[i][j];
    }
  }
}

template <class T>
size_t shared_bytes(const Sizes& s) {
  const int floats = (rounded_up(s.width, kSide) + s.rows + s.rows * s.rank_v + 1 + s.slices) * s.group;
  return static_cast<size_t>(floats) * sizeof(float) + 2 * static_cast<size_t>(Tile<T>::numbers(s)) * sizeof(T);
}

template <class T>
void run(const DecodeArgs& a) {
  const size_t comfortable = max_shared_bytes() / 2 - kSharedBytesOfABlock;
  Sizes s{};
  s.width = static_cast<int>(a.width);
  s.rank_k = static_cast<int>(a.rank_k);
  s.factors = a.a_k != nullptr;
  s.scale = static_cast<float>(a.scale * kLog2e / static_cast<double>(a.rank_k));

  const int columns = rounded_up(a.v_width, kSide) / kSide;
  T6_CHECK(columns <= kMaxThreads, "decode: expected values of up to {} numbers, got {}", kMaxThreads * kSide,
           a.v_width);
  const int largest_group = std::min(kMaxThreads, kMaxThreads / columns * kSide);
  const int groups = (static_cast<int>(a.heads) + largest_group - 1) / largest_group;
  s.group = rounded_up((a.heads + groups - 1) / groups, kSide);
  const int threads = std::max(rounded_up(std::max(s.group / kSide * columns, s.group), kWarp), 128);
  s.slices = threads / s.group;
  s.by_group = Divisor(s.group);
  s.by_head_tiles = Divisor(s.group / kSide);
  s.by_columns = Divisor(columns);
  int rows = 64;
  const auto take_rows = [&] { static_cast<Shares&>(s) = Shares(a, rows, kBlocks / groups); };
  for (take_rows(); rows > kSide && shared_bytes<T>(s) > comfortable; take_rows()) rows /= 2;
  const size_t shared = shared_bytes<T>(s);
  T6_CHECK(shared <= max_shared_bytes(), "decode: {} heads of {} with ranks {} and {} do not fit a multiprocessor",
           a.heads, a.width, a.rank_k, a.rank_v);

  const Partials partials(s);
  const bool packs = a.width % kSide == 0 && a.v_width % kSide == 0;
  const LaunchShape shape{
      dim3(static_cast<unsigned>(s.units), static_cast<unsigned>(groups), static_cast<unsigned>(s.splits)),
      static_cast<unsigned>(threads), shared};
  launch(packs ? &decode_kernel<T, true> : &decode_kernel<T, false>, shape, a, s, partials.data());
  join_partials(a, s, partials);
}

}  // namespace

void run(const DecodeArgs& a) {
  if (a.dtype == DType::bf16) {
    run<bfloat16>(a);
  } else {
    run<float>(a);
  }
}

}  // namespace t6::cuda::decode_on_cuda_cores
