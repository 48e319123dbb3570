// A block makes all of q, k and v of one token, or their gradients, from one reading of what it needs. Bytes a token in
// bf16, with R the sum of the ranks: 2 R (H + D) of factors and 6 H D of q, k and v, nothing else:
//
//   forward   reads the factors, writes q, k, v              (H = 34, D = 64, R = 10: 2.0 + 13.1 KB)
//   backward  reads the factors and dq, dk, dv, writes df    (2.0 + 13.1 + 2.0 KB)
//
// The arithmetic is R H D multiply-adds forward and twice that backward, 0.15 of what the CUDA cores of an H100 do
// while the bytes pass; what counts is how many other instructions stand beside them. So each number brought from
// shared memory is used 8 (forward: 4 heads by N columns a thread) or twice N times (backward: two ranks), where N is a
// 16-byte pack. Several blocks share a multiprocessor, so that one's bytes pass while another computes.
#include <algorithm>

#include "ops/async_copy.cuh"
#include "ops/divisor.h"
#include "ops/factor_contraction.h"
#include "ops/pack.cuh"

namespace t6::cuda {
namespace {

constexpr int kHeadsTogether = 4;  // of a thread, forward; whole groups everywhere
constexpr int kRanksTogether = 2;  // of a thread, backward
constexpr int kMaxSlices = 4;      // of the heads that dB is summed over
constexpr int kMaxThreads = 512;

struct Part {
  int rank, a, b;  // as in FactorPart
  bool rope;
  int shared_a, shared_b;  // places in shared memory, in floats
  Divisor by_rank, by_groups;
};

// So many items of work for each part.
struct Counts {
  int of[3];
};

// A layout in the kernels' numbers. Shared memory holds A [rank, padded_heads] and B [rank, head_dim] / rank of each
// part, B turned; the columns of a row of B are permuted, see columns_at().
struct Plan {
  Part parts[3];
  int heads, head_dim, width;
  int padded_heads;         // whole groups of kHeadsTogether
  int slice_heads, slices;  // heads that dB is summed over by one thread: whole groups
  int first_b, b_floats;    // where the B are, behind one another; floats of them all
  Divisor by_columns, by_pairs, by_heads;
  Counts load_a, load_b, dense, tiles, stage, db, da, turn_db;
};

// Angles of the tokens' positions.
struct Table {
  const float *cos, *sin;
  unsigned window;
  int64_t offset;
};

// Threads take the items of several lists as if they were one: number threadIdx.x, threadIdx.x + blockDim.x, ... of
// them all.
struct Items {
  int next = static_cast<int>(threadIdx.x);

  // Calls f(part, item) for this thread's share of a list and moves on to the next list.
  template <class F>
  __device__ void each(const Counts& counts, F&& f) {
    const int q = counts.of[0], qk = q + counts.of[1], all = qk + counts.of[2];
    for (; next < all; next += static_cast<int>(blockDim.x)) {
      const int part = (next >= q ? 1 : 0) + (next >= qk ? 1 : 0);
      f(part, next - (part == 0 ? 0 : part == 1 ? q : qk));
    }
    next -= all;
  }
};

// N columns from column c N of a row of head_dim floats. With N = 8 the row stands as [2, head_dim/8, 4], so that
// neighbouring threads read neighbouring 16 bytes.
template <int N>
__device__ float* columns_at(float* row, int head_dim, int c, int word) {
  constexpr int kWord = N < 4 ? N : 4;
  return row + word * (head_dim / (N / kWord)) + c * kWord;
}
template <int N>
__device__ void load_columns(const float* row, int head_dim, int c, float (&x)[N]) {
  constexpr int kWord = N < 4 ? N : 4;
#pragma unroll
  for (int word = 0; word < N / kWord; ++word) {
    const auto piece = load_pack<kWord>(columns_at<N>(const_cast<float*>(row), head_dim, c, word));
#pragma unroll
    for (int j = 0; j < kWord; ++j) x[word * kWord + j] = piece.v[j];
  }
}
template <int N>
__device__ void store_columns(float* row, int head_dim, int c, const float (&x)[N]) {
  constexpr int kWord = N < 4 ? N : 4;
#pragma unroll
  for (int word = 0; word < N / kWord; ++word) {
    Pack<float, kWord> piece;
#pragma unroll
    for (int j = 0; j < kWord; ++j) piece.v[j] = x[word * kWord + j];
    store_pack(columns_at<N>(row, head_dim, c, word), piece);
  }
}

// The pairs (x1, x2) of columns c N + [0, N) of the halves of a vector, turned by direction times the token's angle.
template <int N>
__device__ void turn(const Table& table, int half, int c, float direction, float (&x1)[N], float (&x2)[N]) {
  const int64_t at = (table.offset + blockIdx.x % table.window) * half + c * N;
  float cos[N], sin[N];
  load_floats(table.cos + at, cos);
  load_floats(table.sin + at, sin);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float a = x1[j], b = x2[j], s = direction * sin[j];
    x1[j] = a * cos[j] + b * s;
    x2[j] = b * cos[j] - a * s;
  }
}

// Brings A and B of the row f to shared memory.
template <int N, class T>
__device__ void load_factors(const T* f, const Plan& plan, const Table& table, float* shared) {
  const int half = plan.head_dim / 2;
  Items items;
  items.each(plan.load_b, [&](int i, int item) {
    const Part& part = plan.parts[i];
    const int r = plan.by_pairs.quotient(item), c = plan.by_pairs.remainder(item, r);
    const T* row = f + part.b + r * plan.head_dim + c * N;
    float x1[N], x2[N];
    load_floats(row, x1);
    load_floats(row + half, x2);
    if (part.rope) turn(table, half, c, 1.0f, x1, x2);
    const float scale = 1.0f / static_cast<float>(part.rank);
#pragma unroll
    for (int j = 0; j < N; ++j) x1[j] *= scale, x2[j] *= scale;
    float* b = shared + part.shared_b + r * plan.head_dim;
    store_columns(b, plan.head_dim, c, x1);
    store_columns(b, plan.head_dim, c + half / N, x2);
  });
  items.each(plan.load_a, [&](int i, int item) {
    const Part& part = plan.parts[i];
    float x[N];
    load_floats(f + part.a + item * N, x);
    int head = part.by_rank.quotient(item * N), r = part.by_rank.remainder(item * N, head);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (head < plan.heads) shared[part.shared_a + r * plan.padded_heads + head] = x[j];
      if (++r == part.rank) r = 0, ++head;
    }
  });
}

// A dense part: heads turned on their way from one row to another.
template <int N, class T>
__device__ void turn_dense(const T* from, T* to, const Plan& plan, const Table& table, bool rope, float direction,
                           int item) {
  const int half = plan.head_dim / 2, head = plan.by_pairs.quotient(item), c = plan.by_pairs.remainder(item, head);
  const int at = head * plan.head_dim + c * N;
  float x1[N], x2[N];
  load_floats(from + at, x1);
  load_floats(from + at + half, x2);
  if (rope) turn(table, half, c, direction, x1, x2);
  store_floats(to + at, x1);
  store_floats(to + at + half, x2);
}

template <class T, int N>
__global__ void __launch_bounds__(kMaxThreads)
    factor_contraction_kernel(FactorContractionArgs args, Plan plan, Table table) {
  float* shared = dynamic_shared<float>();
  const int head_dim = plan.head_dim;
  const int64_t row = blockIdx.x, at = row * plan.heads * head_dim;
  const T* f = static_cast<const T*>(args.f) + row * plan.width;
  load_factors<N>(f, plan, table, shared);
  __syncthreads();

  Items items;
  items.each(plan.tiles, [&](int i, int item) {
    const Part& part = plan.parts[i];
    const int tile = plan.by_columns.quotient(item), c = plan.by_columns.remainder(item, tile);
    const float* a = shared + part.shared_a + tile * kHeadsTogether;
    const float* b = shared + part.shared_b;
    float sums[kHeadsTogether][N] = {};
    for (int r = 0; r < part.rank; ++r, a += plan.padded_heads, b += head_dim) {
      const auto weights = load_pack<kHeadsTogether>(a);
      float x[N];
      load_columns(b, head_dim, c, x);
#pragma unroll
      for (int h = 0; h < kHeadsTogether; ++h) {
#pragma unroll
        for (int j = 0; j < N; ++j) sums[h][j] += weights.v[h] * x[j];
      }
    }
    T* out = static_cast<T*>(args.qkv[static_cast<size_t>(i)]) + at;
#pragma unroll
    for (int h = 0; h < kHeadsTogether; ++h) {
      const int head = tile * kHeadsTogether + h;
      if (head < plan.heads) store_floats(out + head * head_dim + c * N, sums[h]);
    }
  });
  items.each(plan.dense, [&](int i, int item) {
    const Part& part = plan.parts[i];
    T* out = static_cast<T*>(args.qkv[static_cast<size_t>(i)]) + at;
    turn_dense<N>(f + part.a, out, plan, table, part.rope, 1.0f, item);
  });
}

// Shared memory of the backward behind A and B: db [slices, sum of ranks, head_dim] f32, sums over heads in the order
// of the B; image [width], the row of df; staged [together, heads, head_dim + N], the gradients of `together` parts.
template <class T, int N>
__global__ void __launch_bounds__(kMaxThreads)
    factor_contraction_backward_kernel(FactorContractionBackwardArgs args, Plan plan, Table table, int together) {
  float* shared = dynamic_shared<float>();
  const int heads = plan.heads, head_dim = plan.head_dim, half = head_dim / 2, columns = head_dim / N;
  float* db = shared + plan.first_b + plan.b_floats;
  T* image = reinterpret_cast<T*>(db + plan.slices * plan.b_floats);
  T* staged = image + (plan.width + 7) / 8 * 8;
  const int stride = head_dim + N;  // a pack more than the row: heads lie in different banks
  const int64_t row = blockIdx.x;
  const auto gradient = [&](int i) {
    return static_cast<const T*>(args.dqkv[static_cast<size_t>(i)]) + row * heads * head_dim;
  };
  // Ranks r and `other` of a group; the same where the rank is odd.
  const auto ranks_of = [](const Part& part, int group, int& r, int& other) {
    r = group * kRanksTogether;
    other = r + 1 < part.rank ? r + 1 : r;
  };

  for (int first = 0; first < 3; first += together) {
    // Parts [first, first + together) of a list.
    const auto here = [&](Counts counts) {
      for (int i = 0; i < 3; ++i) counts.of[i] = i >= first && i < first + together ? counts.of[i] : 0;
      return counts;
    };
    if (first > 0) __syncthreads();
    Items items;
    items.each(here(plan.stage), [&](int i, int item) {
      const int head = plan.by_columns.quotient(item), c = plan.by_columns.remainder(item, head);
      T* to = staged + ((i - first) * heads + head) * stride + c * N;
      if constexpr (N == kPackOf<T>) {
        copy_16(to, gradient(i) + item * N);
      } else {
        *to = gradient(i)[item];
      }
    });
    if (first == 0) {
      load_factors<N>(static_cast<const T*>(args.f) + row * plan.width, plan, table, shared);
      for (int c = static_cast<int>(threadIdx.x) * N; c < plan.width; c += static_cast<int>(blockDim.x) * N) {
        store_pack(image + c, Pack<T, N>{});
      }
    }
    wait_for_copies();
    __syncthreads();

    items = Items();
    items.each(here(plan.db), [&](int i, int item) {
      const Part& part = plan.parts[i];
      const int rest = plan.by_columns.quotient(item), c = plan.by_columns.remainder(item, rest);
      const int slice = part.by_groups.quotient(rest);
      int r, other;
      ranks_of(part, part.by_groups.remainder(rest, slice), r, other);
      const int begin = slice * plan.slice_heads, end = min(begin + plan.slice_heads, heads);
      const T* dx = staged + ((i - first) * heads + begin) * stride + c * N;
      const float *a1 = shared + part.shared_a + r * plan.padded_heads,
                  *a2 = shared + part.shared_a + other * plan.padded_heads;
      float sum1[N] = {}, sum2[N] = {};
      for (int head = begin; head < end; head += kHeadsTogether) {
        const auto w1 = load_pack<kHeadsTogether>(a1 + head), w2 = load_pack<kHeadsTogether>(a2 + head);
#pragma unroll
        for (int h = 0; h < kHeadsTogether; ++h) {
          if (head + h >= end) break;
          float x[N];
          load_floats(dx, x);
          dx += stride;
#pragma unroll
          for (int j = 0; j < N; ++j) sum1[j] += w1.v[h] * x[j], sum2[j] += w2.v[h] * x[j];
        }
      }
      float* sums = db + slice * plan.b_floats + (part.shared_b - plan.first_b);
      store_columns(sums + other * head_dim, head_dim, c, sum2);
      store_columns(sums + r * head_dim, head_dim, c, sum1);
    });
    items.each(here(plan.da), [&](int i, int item) {
      const Part& part = plan.parts[i];
      const int group = plan.by_heads.quotient(item), head = plan.by_heads.remainder(item, group);
      int r, other;
      ranks_of(part, group, r, other);
      const T* dx = staged + ((i - first) * heads + head) * stride;
      const float *b1 = shared + part.shared_b + r * head_dim, *b2 = shared + part.shared_b + other * head_dim;
      float dot1 = 0, dot2 = 0;
#pragma unroll 2
      for (int c = 0; c < columns; ++c) {
        float x[N], y1[N], y2[N];
        load_floats(dx + c * N, x);
        load_columns(b1, head_dim, c, y1);
        load_columns(b2, head_dim, c, y2);
#pragma unroll
        for (int j = 0; j < N; ++j) dot1 += x[j] * y1[j], dot2 += x[j] * y2[j];
      }
      T* da = image + part.a + head * part.rank;
      da[other] = static_cast<T>(dot2);
      da[r] = static_cast<T>(dot1);
    });
    items.each(here(plan.dense), [&](int i, int item) {
      const Part& part = plan.parts[i];
      turn_dense<N>(gradient(i), image + part.a, plan, table, part.rope, -1.0f, item);
    });
  }
  __syncthreads();

  Items items;
  items.each(plan.turn_db, [&](int i, int item) {
    const Part& part = plan.parts[i];
    const int r = plan.by_pairs.quotient(item), c = plan.by_pairs.remainder(item, r);
    const float* sums = db + (part.shared_b - plan.first_b) + r * head_dim;
    const float scale = 1.0f / static_cast<float>(part.rank);
    float x1[N] = {}, x2[N] = {};
    for (int slice = 0; slice < plan.slices; ++slice, sums += plan.b_floats) {
      float y1[N], y2[N];
      load_columns(sums, head_dim, c, y1);
      load_columns(sums, head_dim, c + half / N, y2);
#pragma unroll
      for (int j = 0; j < N; ++j) x1[j] += y1[j] * scale, x2[j] += y2[j] * scale;
    }
    if (part.rope) turn(table, half, c, -1.0f, x1, x2);
    store_floats(image + part.b + r * head_dim + c * N, x1);
    store_floats(image + part.b + r * head_dim + half + c * N, x2);
  });
  __syncthreads();
  T* df = static_cast<T*>(args.df) + row * plan.width;
  for (int c = static_cast<int>(threadIdx.x) * N; c < plan.width; c += static_cast<int>(blockDim.x) * N) {
    store_pack(df + c, load_pack<N>(image + c));
  }
}

constexpr size_t kMaxShared = size_t{160} << 10;
constexpr size_t kComfortableShared = size_t{72} << 10;  // three blocks a multiprocessor

bool whole_packs(const FactorLayout& layout, int n) {
  bool whole = layout.width % n == 0 && layout.head_dim % (2 * n) == 0;
  for (const FactorPart& part : {layout.q, layout.k, layout.v}) {
    whole = whole && part.a % n == 0 && (part.rank == 0 || part.b % n == 0);
  }
  return whole;
}

// `wanted`: the parts that have an output or a gradient.
Plan plan_for(const FactorLayout& layout, const std::array<bool, 3>& wanted, int n) {
  Plan plan{};
  plan.heads = static_cast<int>(layout.heads);
  plan.head_dim = static_cast<int>(layout.head_dim);
  plan.width = static_cast<int>(layout.width);
  const int columns = plan.head_dim / n, pairs = plan.head_dim / 2 / n;
  const int tiles = (plan.heads + kHeadsTogether - 1) / kHeadsTogether;
  const int slice_tiles = (tiles + kMaxSlices - 1) / kMaxSlices;
  plan.padded_heads = tiles * kHeadsTogether;
  plan.slice_heads = slice_tiles * kHeadsTogether;
  plan.slices = (tiles + slice_tiles - 1) / slice_tiles;
  plan.by_columns = Divisor(columns);
  plan.by_pairs = Divisor(pairs);
  plan.by_heads = Divisor(plan.heads);

  const FactorPart* from[] = {&layout.q, &layout.k, &layout.v};
  for (size_t i = 0; i < 3; ++i) {
    const int rank = static_cast<int>(from[i]->rank), groups = (rank + kRanksTogether - 1) / kRanksTogether;
    plan.parts[i] = {rank, static_cast<int>(from[i]->a), static_cast<int>(from[i]->b), from[i]->rope, plan.first_b,
                     0,    Divisor(std::max(rank, 1)),   Divisor(std::max(groups, 1))};
    plan.first_b += rank * plan.padded_heads;
    if (!wanted[i]) continue;
    plan.dense.of[i] = rank == 0 ? plan.heads * pairs : 0;
    if (rank == 0) continue;
    plan.load_a.of[i] = (plan.heads * rank + n - 1) / n;
    plan.load_b.of[i] = plan.turn_db.of[i] = rank * pairs;
    plan.tiles.of[i] = tiles * columns;
    plan.stage.of[i] = plan.heads * columns;
    plan.db.of[i] = plan.slices * groups * columns;
    plan.da.of[i] = groups * plan.heads;
  }
  for (Part& part : plan.parts) {
    part.shared_b = plan.first_b + plan.b_floats;
    plan.b_floats += part.rank * plan.head_dim;
  }
  plan.b_floats = (plan.b_floats + 3) / 4 * 4;
  return plan;
}

// Calls f(T{}, N, plan, table), N as an integral constant: a 16-byte pack, or 1 where columns do not come in whole
// ones.
template <class Args, class Outer, class F>
void dispatch(const char* op, const Args& args, const Outer& qkv, bool aligned, F&& f) {
  T6_CHECK(args.dtype != DType::f64, "{}: f64 is not built for cuda", op);
  const Table table{static_cast<const float*>(args.cos), static_cast<const float*>(args.sin),
                    static_cast<unsigned>(args.window), args.offset};
  const std::array<bool, 3> wanted{qkv[0] != nullptr, qkv[1] != nullptr, qkv[2] != nullptr};
  auto with = [&]<class T>(T) {
    constexpr int kPack = kPackOf<T>;
    if (aligned && whole_packs(args.layout, kPack)) {
      f(T{}, std::integral_constant<int, kPack>{}, plan_for(args.layout, wanted, kPack), table);
    } else {
      f(T{}, std::integral_constant<int, 1>{}, plan_for(args.layout, wanted, 1), table);
    }
  };
  if (args.dtype == DType::bf16) {
    with(bfloat16{});
  } else {
    with(float{});
  }
}

int sum(const Counts& counts) {
  return counts.of[0] + counts.of[1] + counts.of[2];
}

}  // namespace

void factor_contraction(const FactorContractionArgs& args) {
  if (args.rows == 0) return;
  const bool aligned = aligned_to(16, args.f, args.qkv[0], args.qkv[1], args.qkv[2], args.cos, args.sin);
  auto run = [&]<class T, int N>(T, std::integral_constant<int, N>, const Plan& plan, const Table& table) {
    const int warps = (sum(plan.tiles) + sum(plan.dense) + kWarp - 1) / kWarp;
    const auto threads = static_cast<unsigned>(std::clamp(warps * kWarp, kWarp, kMaxThreads));
    const size_t shared = static_cast<size_t>(plan.first_b + plan.b_floats) * sizeof(float);
    launch(&factor_contraction_kernel<T, N>, {static_cast<unsigned>(args.rows), threads, shared}, args, plan, table);
  };
  dispatch("factor_contraction", args, args.qkv, aligned, run);
}

void factor_contraction_backward(const FactorContractionBackwardArgs& args) {
  if (args.rows == 0) return;
  const bool aligned = aligned_to(16, args.f, args.df, args.dqkv[0], args.dqkv[1], args.dqkv[2], args.cos, args.sin);
  auto run = [&]<class T, int N>(T, std::integral_constant<int, N>, const Plan& plan, const Table& table) {
    const size_t fixed = static_cast<size_t>(plan.first_b + (1 + plan.slices) * plan.b_floats) * sizeof(float) +
                         static_cast<size_t>((plan.width + 7) / 8 * 8) * sizeof(T);
    const size_t part = static_cast<size_t>(plan.heads) * static_cast<size_t>(plan.head_dim + N) * sizeof(T);
    const int together = fixed + 3 * part <= kComfortableShared ? 3 : 1;
    const size_t shared = fixed + static_cast<size_t>(together) * part;
    T6_CHECK(shared <= kMaxShared, "factor_contraction_backward: {} heads of {} do not fit a multiprocessor",
             plan.heads, plan.head_dim);
    const unsigned threads = plan.heads * plan.head_dim > 3072 ? 256 : 128;
    launch(&factor_contraction_backward_kernel<T, N>, {static_cast<unsigned>(args.rows), threads, shared}, args, plan,
           table, together);
  };
  dispatch("factor_contraction_backward", args, args.dqkv, aligned, run);
}

}  // namespace t6::cuda
