// How the cached rows of a unit, a token's heads of one group, are divided among blocks, and what each block leaves of
// its share: a running maximum, a sum and weighted values in f32, joined in order afterwards. The shares depend on the
// shapes and the lengths alone, and so do the sums.
#pragma once

#include <algorithm>

#include "ops/async_copy.cuh"
#include "ops/decode_cuda/decode.h"
#include "tensor/cuda.h"
#include "tensor/storage.h"

namespace t6::cuda {

__host__ __device__ inline int rounded_up(int64_t n, int64_t multiple) {
  return static_cast<int>((n + multiple - 1) / multiple * multiple);
}

// Shared memory that the device keeps for itself of every block.
inline constexpr size_t kSharedBytesOfABlock = size_t{1} << 10;

// Sizes in the kernels' numbers.
struct Shares {
  int units, groups, heads, v_width, rank_v, queries, capacity;
  int rows;                         // of a tile; shares are whole tiles
  int splits;                       // shares of a unit's rows
  int partial_out, partial_stride;  // numbers before the values of a partial result, and of all of it

  Shares() = default;
  // Of tiles of `rows` rows, for about `blocks` blocks where there is work for them.
  Shares(const DecodeArgs& a, int rows_, int64_t blocks)
      : units(static_cast<int>(a.batch * a.queries * a.groups)),
        groups(static_cast<int>(a.groups)),
        heads(static_cast<int>(a.heads)),
        v_width(static_cast<int>(a.v_width)),
        rank_v(static_cast<int>(a.rank_v)),
        queries(static_cast<int>(a.queries)),
        capacity(static_cast<int>(a.capacity)),
        rows(rows_),
        partial_out(rounded_up(2 * a.heads, 4)),
        partial_stride(partial_out + rounded_up(a.heads * a.v_width, 4)) {
    const int64_t tiles = std::max<int64_t>((a.capacity + rows - 1) / rows, 1);
    splits = static_cast<int>(std::clamp<int64_t>(blocks / units, 1, tiles));
  }
};

// The rows [begin, end) of a split of a unit.
struct Share {
  int begin, end, active;  // active: splits that have rows

  __device__ Share(const Shares& s, const DecodeArgs& a, int unit, int split) {
    const int token = unit / s.groups, b = token / s.queries, t = token % s.queries;
    const int said = a.lengths != nullptr ? a.lengths[b] : static_cast<int>(a.length);
    const int length = min(max(said, s.queries), s.capacity);
    const int seen = length - s.queries + t + 1;
    const int tiles = (seen + s.rows - 1) / s.rows, each = max((tiles + s.splits - 1) / s.splits, 1);
    begin = split * each * s.rows;
    end = min(begin + each * s.rows, seen);
    active = (tiles + each - 1) / each;
  }
};

// Rows of one part of the cache as a unit sees them.
template <class T>
struct CachedRows {
  const T* data;  // row 0
  int size;       // numbers of a row; a multiple of it from one row to the next
  int stride;

  // `data` [batch, capacity, groups, size]; null stays null.
  __device__ CachedRows(const void* data_, int size_, const Shares& s, int unit)
      : data(static_cast<const T*>(data_)), size(size_), stride(s.groups * size) {
    const int64_t b = unit / s.groups / s.queries;
    if (data != nullptr) data += b * s.capacity * stride + unit % s.groups * size;
  }
  __device__ const T* row(int i) const { return data + static_cast<int64_t>(i) * stride; }
};

// What a split leaves: max [heads] and sum [heads] of its scores in base two, out [heads, v_width].
struct Partial {
  float *max, *sum, *out;

  __device__ Partial(float* partials, const Shares& s, int unit, int split)
      : max(partials + (static_cast<int64_t>(unit) * s.splits + split) * s.partial_stride),
        sum(max + s.heads),
        out(max + s.partial_out) {}
};

// Memory for the partial results of all splits, given back behind the kernels that are asked for until then.
class Partials {
 public:
  explicit Partials(const Shares& s)
      : memory_(Storage::allocate(static_cast<size_t>(s.units) * static_cast<size_t>(s.splits) *
                                      static_cast<size_t>(s.partial_stride) * sizeof(float),
                                  Device{Device::Kind::cuda, 0})) {}
  float* data() const { return reinterpret_cast<float*>(memory_->data()); }

 private:
  std::shared_ptr<Storage> memory_;
};

// o = the splits' values, brought to one maximum, over R_V times the whole sum.
void join_partials(const DecodeArgs& args, const Shares& shares, const Partials& partials);

// Begins to copy rows [first, first + count) one behind the other to `to`, which is aligned to 16 bytes; what does not
// lie for copies of 16 bytes is copied at once.
template <class T>
__device__ inline void copy_rows(T* to, const CachedRows<T>& x, int first, int count) {
  constexpr int kPack = kPackOf<T>;
  const int threads = static_cast<int>(blockDim.x), me = static_cast<int>(threadIdx.x);
  const bool adjacent = x.stride == x.size;
  const int size = adjacent ? count * x.size : x.size, rows = adjacent ? 1 : count;
  const T* from = x.row(first);
  const bool packs_fit = reinterpret_cast<uintptr_t>(from) % 16 == 0 && (adjacent || x.size % kPack == 0);
  const int packs = packs_fit ? size / kPack : 0, rest = size - packs * kPack;
  for (int i = me; i < rows * packs; i += threads) {
    const int row = adjacent ? 0 : i / packs, column = (i - row * packs) * kPack;
    copy_16(to + row * size + column, from + static_cast<int64_t>(row) * x.stride + column);
  }
  for (int i = me; i < rows * rest; i += threads) {
    const int row = adjacent ? 0 : i / rest, column = packs * kPack + i - row * rest;
    to[row * size + column] = from[static_cast<int64_t>(row) * x.stride + column];
  }
}

}  // namespace t6::cuda
