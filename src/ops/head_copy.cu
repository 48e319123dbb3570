// Every number is read once and written once, by 16-byte instructions where columns come in whole packs, so a call
// costs its bytes: in bf16 4 a number of q, k and v, and 2 a number of padding. Between them stand some ten
// instructions a pack, and the angles of a token, which its heads share: a thread moves up to four heads with one
// reading of them, and asks for all of their packs before it uses the first. All segments go in one launch; a block
// takes as many rows as keep its threads busy.
#include <algorithm>

#include "ops/divisor.h"
#include "ops/head_copy.h"
#include "ops/pack.cuh"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeadsTogether = 4;
constexpr int kItemsPerBlock = 512;

// A segment in the kernel's numbers. An item is one pack (one number where packs do not fit), or a pair of them where
// heads are rotated, of up to kHeadsTogether heads, or of all where they are summed.
struct Segment {
  HeadSegment of;
  bool packs;  // N numbers at once, otherwise one
  int items;   // of a row
  int rows_per_block;
  unsigned first_block;
  Divisor by_items, by_columns;
};

struct Plan {
  Segment segments[HeadCopyArgs::kMaxSegments];
  int count = 0;
  const float *cos, *sin;
  int64_t rows, window, offset;
};

// Angles of N pairs.
template <int N>
struct Angles {
  float cos[N], sin[N];

  __device__ Angles(const Plan& plan, int64_t row, int half, int column, int direction) {
    const int64_t at = (plan.offset + static_cast<unsigned>(row) % static_cast<unsigned>(plan.window)) * half + column;
    load_floats(plan.cos + at, cos);
    load_floats(plan.sin + at, sin);
#pragma unroll
    for (int j = 0; j < N; ++j) sin[j] *= static_cast<float>(direction);
  }
  __device__ void turn(float (&x1)[N], float (&x2)[N]) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float a = x1[j], b = x2[j];
      x1[j] = a * cos[j] + b * sin[j];
      x2[j] = b * cos[j] - a * sin[j];
    }
  }
};

// Heads [head, head + kHeadsTogether) at one column; x and y are those of head 0.
template <int N, class T>
__device__ void copy_heads(const HeadSegment& s, const T* x, T* y, int head) {
  Pack<T, N> packs[kHeadsTogether] = {};
#pragma unroll
  for (int h = 0; h < kHeadsTogether; ++h) {
    if (x != nullptr && head + h < s.heads) packs[h] = load_pack<N>(x + (head + h) * s.source_head);
  }
#pragma unroll
  for (int h = 0; h < kHeadsTogether; ++h) {
    if (head + h < s.heads) store_pack(y + (head + h) * s.destination_head, packs[h]);
  }
}

template <int N, class T>
__device__ void turn_heads(const HeadSegment& s, const T* x, T* y, int head, const Angles<N>& angles) {
  const int64_t half = s.width / 2;
  Pack<T, N> first[kHeadsTogether] = {}, second[kHeadsTogether] = {};
#pragma unroll
  for (int h = 0; h < kHeadsTogether; ++h) {
    if (head + h >= s.heads) continue;
    first[h] = load_pack<N>(x + (head + h) * s.source_head);
    second[h] = load_pack<N>(x + (head + h) * s.source_head + half);
  }
#pragma unroll
  for (int h = 0; h < kHeadsTogether; ++h) {
    if (head + h >= s.heads) continue;
    float x1[N], x2[N];
#pragma unroll
    for (int j = 0; j < N; ++j) x1[j] = number(first[h], j), x2[j] = number(second[h], j);
    angles.turn(x1, x2);
    store_floats(y + (head + h) * s.destination_head, x1);
    store_floats(y + (head + h) * s.destination_head + half, x2);
  }
}

template <int N, class T>
__device__ void add_heads(const HeadSegment& s, const T* x, float (&sum)[N]) {
#pragma unroll 4
  for (int head = 0; head < s.heads; ++head) {
    float numbers[N];
    load_floats(x + head * s.source_head, numbers);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += numbers[j];
  }
}

template <int N, class T>
__device__ void copy_item(const Plan& plan, const Segment& segment, int64_t row, int item) {
  const HeadSegment& s = segment.of;
  const int group = segment.by_columns.quotient(item), column = segment.by_columns.remainder(item, group) * N;
  const int half = static_cast<int>(s.width) / 2;
  const T* x = static_cast<const T*>(s.source);
  if (x != nullptr) x += row * s.source_row + column;
  T* y = static_cast<T*>(s.destination) + row * s.destination_row + column;
  if (s.sum_heads && x != nullptr) {
    float sum[N] = {};
    add_heads(s, x, sum);
    if (s.rotation != 0) {
      float sum2[N] = {};
      add_heads(s, x + half, sum2);
      Angles<N>(plan, row, half, column, s.rotation).turn(sum, sum2);
      store_floats(y + half, sum2);
    }
    store_floats(y, sum);
  } else if (s.rotation != 0) {
    turn_heads(s, x, y, group * kHeadsTogether, Angles<N>(plan, row, half, column, s.rotation));
  } else {
    copy_heads<N>(s, x, y, group * kHeadsTogether);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) head_copy_kernel(Plan plan) {
  int i = 0;
  while (i + 1 < plan.count && blockIdx.x >= plan.segments[i + 1].first_block) ++i;
  const Segment& segment = plan.segments[i];
  const int64_t first = static_cast<int64_t>(blockIdx.x - segment.first_block) * segment.rows_per_block;
  const int rows = static_cast<int>(min(static_cast<int64_t>(segment.rows_per_block), plan.rows - first));
  for (int at = static_cast<int>(threadIdx.x); at < rows * segment.items; at += kThreads) {
    const int row = segment.by_items.quotient(at), item = segment.by_items.remainder(at, row);
    if (segment.packs) {
      copy_item<kPackOf<T>, T>(plan, segment, first + row, item);
    } else {
      copy_item<1, T>(plan, segment, first + row, item);
    }
  }
}

Segment segment_for(HeadSegment s, int n, const Plan& plan) {
  if (s.source == nullptr) s.rotation = 0;
  if (s.sum_heads) s.destination_head = 0;
  if (s.sum_heads && s.source == nullptr) s.heads = 1;
  bool packs = aligned_to(16, s.source, s.destination) && s.width % (s.rotation != 0 ? 2 * n : n) == 0;
  for (const int64_t stride : {s.source_row, s.source_head, s.destination_row, s.destination_head}) {
    packs = packs && stride % n == 0;
  }
  if (s.rotation != 0) packs = packs && aligned_to(16, plan.cos, plan.sin);

  Segment segment{};
  segment.of = s;
  segment.packs = packs;
  const int64_t columns = s.width / (s.rotation != 0 ? 2 : 1) / (packs ? n : 1);
  const int64_t groups = s.sum_heads ? 1 : (s.heads + kHeadsTogether - 1) / kHeadsTogether;
  segment.items = static_cast<int>(columns * groups);
  segment.rows_per_block = std::max(1, kItemsPerBlock / segment.items);
  segment.by_items = Divisor(segment.items);
  segment.by_columns = Divisor(columns);
  return segment;
}

}  // namespace

void head_copy(const HeadCopyArgs& args) {
  if (args.rows == 0 || args.count == 0) return;
  T6_CHECK(args.dtype != DType::f64, "head_copy: f64 is not built for cuda");
  Plan plan;
  plan.cos = static_cast<const float*>(args.cos);
  plan.sin = static_cast<const float*>(args.sin);
  plan.rows = args.rows;
  plan.window = args.window;
  plan.offset = args.offset;
  unsigned blocks = 0;
  for (int i = 0; i < args.count; ++i) {
    Segment& segment = plan.segments[plan.count++];
    segment = segment_for(args.segments[static_cast<size_t>(i)], 16 / static_cast<int>(size_of(args.dtype)), plan);
    segment.first_block = blocks;
    blocks += blocks_for(args.rows, segment.rows_per_block);
  }
  if (args.dtype == DType::bf16) {
    launch(&head_copy_kernel<bfloat16>, {blocks, kThreads}, plan);
  } else {
    launch(&head_copy_kernel<float>, {blocks, kThreads}, plan);
  }
}

}  // namespace t6::cuda
