// Each block takes a share of one query's cache rows, for all heads, so that every byte of the cache is read once:
// (R_K + R_V)(H + D) numbers a row, 384 bytes in bf16 at H = 32, D = 64, R = 1. Tiles of rows pass through shared
// memory as they lie in the cache, the next one on its way (cp.async) while one is worked on; every block leaves a
// running maximum, a sum and weighted values in f32, which a second kernel joins in order. The shares depend on the
// shapes alone, and so do the sums.
//
// A row costs (R_K + R_V) H D multiply-adds on the CUDA cores, 4096 in that case, with one other instruction beside
// three of them: some 60 cycles of a multiprocessor of an H100, where its bytes take 29. So the arithmetic is the
// limit, not the memory, and tensor cores are what would lift it.
#include <algorithm>

#include "ops/divisor.h"
#include "ops/exp2.h"
#include "ops/factor_decode.h"
#include "ops/pack.cuh"
#include "ops/reduce.cuh"
#include "tensor/storage.h"

namespace t6::cuda {
namespace {

constexpr int kSide = 4;  // of the square of numbers that a thread sums in registers
constexpr int kMaxThreads = 512;
constexpr int64_t kBlocks = 528;  // wanted at once: four a multiprocessor of the largest devices
constexpr int kCombineThreads = 256;

// Sizes in the kernels' numbers. Heads are worked on in groups of `group` (whole sides), one block each.
struct Sizes {
  int heads, width, v_width, rank_k, rank_v, queries, capacity;
  int group, rows;  // heads and cache rows of a tile
  int splits;       // shares of a query's rows
  int slices;       // threads that share a head's softmax
  int partial_out, partial_stride;
  float scale;  // of scores in base two, 1 / R_K in it
  Divisor by_group, by_head_tiles, by_columns;
};

// The rows of a query, divided into tiles and those among splits.
struct Share {
  int begin, end, active;  // active: splits that have rows

  __device__ Share(const Sizes& s, const int32_t* lengths, int query, int split) {
    const int b = query / s.queries, t = query % s.queries;
    const int seen = min(max(lengths[b] - s.queries + t + 1, 0), s.capacity);
    const int tiles = (seen + s.rows - 1) / s.rows, each = max((tiles + s.splits - 1) / s.splits, 1);
    begin = split * each * s.rows;
    end = min(begin + each * s.rows, seen);
    active = (tiles + each - 1) / each;
  }
};

// What a split leaves: max [heads] and sum [heads] of its scores in base two, out [heads, v_width].
struct Partial {
  float *max, *sum, *out;

  __device__ Partial(float* partials, const Sizes& s, int query, int split)
      : max(partials + (static_cast<int64_t>(query) * s.splits + split) * s.partial_stride),
        sum(max + s.heads),
        out(max + s.partial_out) {}
};

// A tile of the cache in shared memory, each of its parts in whole 16 bytes.
template <class T>
struct Tile {
  T *a_k, *b_k, *a_v, *b_v;

  static __host__ __device__ int padded(int count) { return (count + kPackOf<T> - 1) / kPackOf<T> * kPackOf<T>; }
  static __host__ __device__ int numbers(const Sizes& s) {
    return padded(s.rows * s.heads * s.rank_k) + padded(s.rows * s.rank_k * s.width) +
           padded(s.rows * s.heads * s.rank_v) + padded(s.rows * s.rank_v * s.v_width);
  }
  __device__ Tile(T* at, const Sizes& s)
      : a_k(at),
        b_k(a_k + padded(s.rows * s.heads * s.rank_k)),
        a_v(b_k + padded(s.rows * s.rank_k * s.width)),
        b_v(a_v + padded(s.rows * s.heads * s.rank_v)) {}

  // Asks for `rows` rows from row `at` of the whole cache on.
  __device__ void ask(const FactorDecodeArgs& a, const Sizes& s, int64_t at, int rows) const {
    ask(a_k, a.a_k, at, rows, s.heads * s.rank_k);
    ask(b_k, a.b_k, at, rows, s.rank_k * s.width);
    ask(a_v, a.a_v, at, rows, s.heads * s.rank_v);
    ask(b_v, a.b_v, at, rows, s.rank_v * s.v_width);
    async_copies_end_group();
  }

 private:
  static __device__ void ask(T* to, const void* data, int64_t at, int rows, int row_size) {
    const T* from = static_cast<const T*>(data) + at * row_size;
    const int count = rows * row_size, threads = static_cast<int>(blockDim.x), me = static_cast<int>(threadIdx.x);
    const int packs = reinterpret_cast<uintptr_t>(from) % 16 == 0 ? count / kPackOf<T> : 0;
    for (int i = me; i < packs; i += threads) async_copy(to + i * kPackOf<T>, from + i * kPackOf<T>);
    for (int i = packs * kPackOf<T> + me; i < count; i += threads) to[i] = from[i];
  }
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
        const T* a = tile.a_k + ((row + i * row_tiles) * s.heads + first_head) * s.rank_k + r;
#pragma unroll
        for (int j = 0; j < kSide; ++j) {
          const int h = head + j * head_tiles;
          if (first_head + h < s.heads) sums[i][j] += static_cast<float>(a[h * s.rank_k]) * dots[i][j];
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

// Block (x, y, z): split z of the rows that query x sees, for group y of heads.
template <class T, bool kPacks>
__global__ void __launch_bounds__(kMaxThreads) factor_decode_kernel(FactorDecodeArgs a, Sizes s, float* partials) {
  const int query = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.z);
  const int first_head = static_cast<int>(blockIdx.y) * s.group, me = static_cast<int>(threadIdx.x);
  const Share share(s, a.lengths, query, split);
  if (share.begin >= share.end) return;
  const int64_t cache = static_cast<int64_t>(query / s.queries) * s.capacity;

  const int sides = (s.width + kSide - 1) / kSide;
  float* q = dynamic_shared<float>();                          // [sides, group, 4]
  float* scores = q + sides * kSide * s.group;                 // [rows, group]
  float* weights = scores + s.rows * s.group;                  // [rows, rank_v, group]
  float* corrections = weights + s.rows * s.rank_v * s.group;  // [group]
  float* of_slices = corrections + s.group;                    // [slices, group]
  T* tiles = reinterpret_cast<T*>(of_slices + s.slices * s.group);
  // Two tiles, by turns. Not an array of them: the compiler must see that they lie in shared memory.
  const auto tile_at = [&](int turn) { return Tile<T>(tiles + turn * Tile<T>::numbers(s), s); };

  tile_at(0).ask(a, s, cache + share.begin, min(s.rows, share.end - share.begin));
  const T* queries = static_cast<const T*>(a.q) + (static_cast<int64_t>(query) * s.heads + first_head) * s.width;
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
    async_copies_wait<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before
    if (next < share.end) tile_at(at ^ 1).ask(a, s, cache + next, min(s.rows, share.end - next));
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
          const int factor = (m * s.heads + first_head + my_head) * s.rank_v + r;
          weights[(m * s.rank_v + r) * s.group + my_head] = has_head ? p * static_cast<float>(tile.a_v[factor]) : 0.0f;
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

  const Partial partial(partials, s, query, split);
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

// Block (x, y): head y of query x. o = the splits' values, brought to one maximum, over R_V times the whole sum.
template <class T>
__global__ void __launch_bounds__(kCombineThreads)
    factor_decode_combine_kernel(FactorDecodeArgs a, Sizes s, float* partials) {
  __shared__ float maxima[kCombineThreads / kWarp], slices[kCombineThreads];
  float* weights = dynamic_shared<float>();  // [splits]
  const int head = static_cast<int>(blockIdx.y), query = static_cast<int>(blockIdx.x),
            me = static_cast<int>(threadIdx.x);
  const int active = Share(s, a.lengths, query, 0).active;

  float max = -INFINITY;
  for (int i = me; i < active; i += kCombineThreads) max = fmaxf(max, Partial(partials, s, query, i).max[head]);
  for (int offset = kWarp / 2; offset > 0; offset /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
  if (me % kWarp == 0) maxima[me / kWarp] = max;
  __syncthreads();
  for (int i = 0; i < kCombineThreads / kWarp; ++i) max = fmaxf(max, maxima[i]);

  float sum = 0;
  for (int i = me; i < active; i += kCombineThreads) {
    const Partial partial(partials, s, query, i);
    weights[i] = exp2f(partial.max[head] - max);
    sum += weights[i] * partial.sum[head];
  }
  sum = block_sum<kCombineThreads>(sum);  // its barriers show everyone the weights
  const float factor = active > 0 ? 1.0f / (sum * static_cast<float>(s.rank_v)) : 0.0f;

  // Columns of a chunk by slices of the splits, whose sums are added in order.
  T* o = static_cast<T*>(a.o) + (static_cast<int64_t>(query) * s.heads + head) * s.v_width;
  for (int first = 0; first < s.v_width; first += kCombineThreads) {
    const int columns = min(kCombineThreads, s.v_width - first), count = kCombineThreads / columns;
    const int slice = me / columns, column = me % columns;
    float value = 0;
    if (slice < count) {
#pragma unroll 4
      for (int i = slice; i < active; i += count) {
        value += weights[i] * Partial(partials, s, query, i).out[head * s.v_width + first + column];
      }
    }
    slices[me] = value;
    __syncthreads();
    if (slice == 0) {
      for (int i = 1; i < count; ++i) value += slices[i * columns + column];
      o[first + column] = static_cast<T>(value * factor);
    }
    __syncthreads();
  }
}

int up(int64_t n, int64_t multiple) {
  return static_cast<int>((n + multiple - 1) / multiple * multiple);
}

template <class T>
size_t shared_bytes(const Sizes& s) {
  const int floats = (up(s.width, kSide) + s.rows + s.rows * s.rank_v + 1 + s.slices) * s.group;
  return static_cast<size_t>(floats) * sizeof(float) + 2 * static_cast<size_t>(Tile<T>::numbers(s)) * sizeof(T);
}

template <class T>
void run(const FactorDecodeArgs& a) {
  constexpr size_t kMaxShared = size_t{160} << 10, kComfortableShared = size_t{72} << 10;
  const int64_t queries = a.batch * a.queries;
  Sizes s{};
  s.heads = static_cast<int>(a.heads);
  s.width = static_cast<int>(a.width);
  s.v_width = static_cast<int>(a.v_width);
  s.rank_k = static_cast<int>(a.rank_k);
  s.rank_v = static_cast<int>(a.rank_v);
  s.queries = static_cast<int>(a.queries);
  s.capacity = static_cast<int>(a.capacity);
  s.scale = static_cast<float>(a.scale * kLog2e / static_cast<double>(a.rank_k));

  const int columns = up(a.v_width, kSide) / kSide;
  T6_CHECK(columns <= kMaxThreads, "factor_decode: expected values of up to {} numbers, got {}", kMaxThreads * kSide,
           a.v_width);
  const int largest_group = kMaxThreads / columns * kSide;
  const int groups = (s.heads + largest_group - 1) / largest_group;
  s.group = up((s.heads + groups - 1) / groups, kSide);
  const int threads = std::max(up(std::max(s.group / kSide * columns, s.group), kWarp), 128);
  s.slices = threads / s.group;
  s.by_group = Divisor(s.group);
  s.by_head_tiles = Divisor(s.group / kSide);
  s.by_columns = Divisor(columns);
  s.partial_out = up(2 * a.heads, kSide);
  s.partial_stride = s.partial_out + up(a.heads * a.v_width, kSide);

  s.rows = 64;
  while (s.rows > kSide && shared_bytes<T>(s) > kComfortableShared) s.rows /= 2;
  const size_t shared = shared_bytes<T>(s);
  T6_CHECK(shared <= kMaxShared, "factor_decode: {} heads of {} with ranks {} and {} do not fit a multiprocessor",
           a.heads, a.width, a.rank_k, a.rank_v);
  const int64_t tiles = std::max<int64_t>((a.capacity + s.rows - 1) / s.rows, 1);
  s.splits = static_cast<int>(std::clamp<int64_t>(kBlocks / (queries * groups), 1, tiles));

  const size_t bytes = static_cast<size_t>(queries) * static_cast<size_t>(s.splits) *
                       static_cast<size_t>(s.partial_stride) * sizeof(float);
  const auto memory = Storage::allocate(bytes, Device{Device::Kind::cuda, 0});  // freed behind the kernels
  float* partials = reinterpret_cast<float*>(memory->data());
  const bool packs = a.width % kSide == 0 && a.v_width % kSide == 0;
  const LaunchShape shape{
      dim3(static_cast<unsigned>(queries), static_cast<unsigned>(groups), static_cast<unsigned>(s.splits)),
      static_cast<unsigned>(threads), shared};
  launch(packs ? &factor_decode_kernel<T, true> : &factor_decode_kernel<T, false>, shape, a, s, partials);
  launch(&factor_decode_combine_kernel<T>,
         {dim3(static_cast<unsigned>(queries), static_cast<unsigned>(s.heads)), kCombineThreads,
          static_cast<size_t>(s.splits) * sizeof(float)},
         a, s, partials);
}

}  // namespace

void factor_decode(const FactorDecodeArgs& a) {
  if (a.batch * a.queries == 0) return;
  T6_CHECK(a.dtype != DType::f64, "factor_decode: f64 is not built for cuda");
  if (a.dtype == DType::bf16) {
    run<bfloat16>(a);
  } else {
    run<float>(a);
  }
}

}  // namespace t6::cuda
