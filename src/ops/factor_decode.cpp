#include "ops/factor_decode.h"

#include <algorithm>

#include "ops/kernel.h"
#include "ops/lanes.h"
#include "ops/split_softmax.h"
#include "ops/wide_load.h"
#include "ops/work_units.h"

namespace t6 {
namespace cpu {
namespace {

constexpr int64_t kBlockRows = 32;  // cache rows of one step of the running softmax

// y[s][h] = x[h][s] for a head factor [heads, rank] of one row, zeros from heads to lanes.
template <class T>
void head_factors(const T* x, int64_t heads, int64_t rank, Accumulate<T>* y, int64_t lanes) {
  using W = WideBlock<T>;
  if constexpr (sizeof(Accumulate<T>) == 4) {
    for (int64_t h = 0; rank == 2 && h < heads; h += W::kLanes) {
      W block = heads - h >= W::kLanes ? W::load(x + 2 * h) : W::load(x + 2 * h, 2 * (heads - h));
      if constexpr (!std::is_same_v<T, bfloat16>) {
        block = {__builtin_shufflevector(block.first, block.second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26,
                                         28, 30),
                 __builtin_shufflevector(block.first, block.second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27,
                                         29, 31)};
      }
      W::V::store(y + h, block.first);
      W::V::store(y + lanes + h, block.second);
    }
    if (rank == 2) return;
  }
  for (int64_t s = 0; s < rank; ++s) {
    for (int64_t h = 0; h < heads; ++h) y[s * lanes + h] = static_cast<Accumulate<T>>(x[h * rank + s]);
    std::fill(y + s * lanes + heads, y + (s + 1) * lanes, Accumulate<T>(0));
  }
}

template <class T>
class Split {
  using S = Accumulate<T>;
  using E = LaneElement<T>;

 public:
  Split(const FactorDecodeArgs& a, Scratch scratch) : a_(a), lanes_(Vector<S>::padded(a.heads)) {
    q_ = scratch.take<E>(packed_size<T>(a.width, a.heads));
    packed_ = scratch.take<E>(packed_numbers(a));
    weights_ = scratch.take<S>(weight_rows(a) * lanes_);
    p_ = std::is_same_v<E, S> ? reinterpret_cast<E*>(weights_) : scratch.take<E>(weight_rows(a) * lanes_);
    scores_ = scratch.take<S>(kBlockRows * lanes_);
    heads_ = scratch.take<S>(std::max(a.rank_k, a.rank_v) * lanes_);
  }
  static int64_t bytes(const FactorDecodeArgs& a) {
    const int64_t lanes = Vector<S>::padded(a.heads);
    return Scratch::bytes<E>(packed_size<T>(a.width, a.heads)) + Scratch::bytes<E>(packed_numbers(a)) +
           Scratch::bytes<S>(weight_rows(a) * lanes) + Scratch::bytes<E>(weight_rows(a) * lanes) +
           Scratch::bytes<S>(kBlockRows * lanes) + Scratch::bytes<S>(std::max(a.rank_k, a.rank_v) * lanes);
  }

  // Cache rows [begin, end) for query t of batch row b.
  void run(int64_t b, int64_t t, int64_t begin, int64_t end, const SplitSums<S>& sums) {
    const T* q = static_cast<const T*>(a_.q) + (b * a_.queries + t) * a_.heads * a_.width;
    pack_transposed(q, a_.width, a_.width, a_.heads, q_);
    sums.clear();
    const S c = static_cast<S>(a_.scale * kLog2e / static_cast<double>(a_.rank_k));
    for (int64_t row = begin; row < end; row += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, end - row), at = b * a_.capacity + row;
      score(at, rows);
      softmax_lanes(scores_, rows, lanes_, c, heads_, sums, 0);
      add_values(at, rows, sums);
    }
  }

 private:
  // Numbers of the next block, while this one is worked on.
  static void ask_ahead(const T* from, int64_t numbers) { prefetch(from, numbers * static_cast<int64_t>(sizeof(T))); }
  // One more than a block has: the second of a last pair.
  static int64_t weight_rows(const FactorDecodeArgs& a) { return kBlockRows * std::max(a.rank_k, a.rank_v) + 1; }
  static int64_t packed_numbers(const FactorDecodeArgs& a) {
    return std::max(kBlockRows * a.rank_k * depth_of<T>(a.width), packed_size<T>(kBlockRows * a.rank_v, a.v_width));
  }

  // scores_[r][h] = sum_s a_k[r][h][s] (q[h] . b_k[r][s]). A copy of the token factors is
  // multiplied: memory is read fastest in its order, a product reads several rows side by side.
  void score(int64_t at, int64_t rows) {
    const int64_t count = rows * a_.rank_k, depth = depth_of<T>(a_.width);
    const T* b = static_cast<const T*>(a_.b_k) + at * a_.rank_k * a_.width;
    pack_rows(b, a_.width, count, a_.width, packed_);
    multiply<T>({packed_, depth, 1}, q_, weights_, lanes_, count, a_.heads, depth, false, [&](int64_t, int64_t) {
      return Part{0, a_.heads, 0, depth};
    });
    const T* a = static_cast<const T*>(a_.a_k) + at * a_.heads * a_.rank_k;
    for (int64_t r = 0; r < rows; ++r, a += a_.heads * a_.rank_k) {
      S* scores = scores_ + r * lanes_;
      ask_ahead(a + kBlockRows * a_.heads * a_.rank_k, a_.heads * a_.rank_k);
      head_factors(a, a_.heads, a_.rank_k, heads_, lanes_);
      std::fill_n(scores, lanes_, S(0));
      for (int64_t s = 0; s < a_.rank_k; ++s) {
        const S* dot = weights_ + (r * a_.rank_k + s) * lanes_;
#pragma omp simd
        for (int64_t h = 0; h < lanes_; ++h) scores[h] += heads_[s * lanes_ + h] * dot[h];
      }
    }
  }

  // out[h] += sum over rows and s of (p a_v[h][s]) b_v[s]
  void add_values(int64_t at, int64_t rows, const SplitSums<S>& sums) {
    const int64_t count = rows * a_.rank_v, depth = depth_of<T>(count);
    const T* a = static_cast<const T*>(a_.a_v) + at * a_.heads * a_.rank_v;
    for (int64_t r = 0; r < rows; ++r, a += a_.heads * a_.rank_v) {
      ask_ahead(a + kBlockRows * a_.heads * a_.rank_v, a_.heads * a_.rank_v);
      head_factors(a, a_.heads, a_.rank_v, heads_, lanes_);
      for (int64_t s = 0; s < a_.rank_v; ++s) {
        S* w = weights_ + (r * a_.rank_v + s) * lanes_;
#pragma omp simd
        for (int64_t h = 0; h < lanes_; ++h) w[h] = scores_[r * lanes_ + h] * heads_[s * lanes_ + h];
      }
    }
    if constexpr (!std::is_same_v<E, S>) {
      if (count % 2 != 0) std::fill_n(weights_ + count * lanes_, lanes_, S(0));
      for (int64_t i = 0; i < count; i += 2) {
        pair_rows(weights_ + i * lanes_, weights_ + (i + 1) * lanes_, p_ + i / 2 * lanes_, lanes_);
      }
    }
    const T* b = static_cast<const T*>(a_.b_v) + at * a_.rank_v * a_.v_width;
    pack_columns(b, a_.v_width, count, a_.v_width, packed_);
    multiply<T>({p_, 1, lanes_}, packed_, sums.out, sums.stride, a_.heads, a_.v_width, depth, true,
                [&](int64_t, int64_t) {
                  return Part{0, a_.v_width, 0, depth};
                });
  }

  const FactorDecodeArgs& a_;
  int64_t lanes_;
  E* q_;        // packed [width, heads]
  E* packed_;   // a block of b_k, then one of b_v
  S* weights_;  // [block rows * rank + 1, lanes]
  E* p_;        // the same as elements
  S* scores_;   // [block rows, lanes]
  S* heads_;    // [rank, lanes]
};

// o[h] = the sums of values of all splits over R_V times the whole sum.
template <class T>
void join(const FactorDecodeArgs& a, const SplitSums<Accumulate<T>>& first, int64_t splits, int64_t query,
          Scratch scratch) {
  using S = Accumulate<T>;
  S* out = scratch.take<S>(first.stride);
  for (int64_t h = 0; h < a.heads; ++h) {
    const S sum = join_splits(first, splits, h, out).sum;
    scale_row(out, a.v_width, S(1) / (sum * static_cast<S>(a.rank_v)));
    narrow(out, static_cast<T*>(a.o) + (query * a.heads + h) * a.v_width, a.v_width);
  }
}

}  // namespace

void factor_decode(const FactorDecodeArgs& a) {
  const int64_t queries = a.batch * a.queries;
  if (queries == 0) return;
  int64_t most = 0;
  const auto splits_of = [&](int64_t b) {
    return (a.lengths[b] + decode_split(a.lengths[b]) - 1) / decode_split(a.lengths[b]);
  };
  for (int64_t b = 0; b < a.batch; ++b) most = std::max(most, splits_of(b));
  dispatch_float(a.dtype, [&]<class T>(T) {
    using S = Accumulate<T>;
    const int64_t lanes = Vector<S>::padded(a.heads), stride = Vector<S>::padded(a.v_width);
    const size_t numbers = static_cast<size_t>(queries * most * SplitSums<S>::numbers(lanes, stride));
    const auto storage = Storage::allocate(numbers * sizeof(S), kCpu);
    const SplitSums<S> sums(reinterpret_cast<S*>(storage->data()), lanes, stride);
    for_each_unit(queries * most, Split<T>::bytes(a), [&](int64_t unit, Scratch scratch) {
      const int64_t query = unit / most, b = query / a.queries, t = query % a.queries;
      if (unit % most >= splits_of(b)) return;
      const int64_t seen = a.lengths[b] - a.queries + t + 1, split = decode_split(a.lengths[b]);
      const int64_t begin = unit % most * split;
      Split<T>(a, scratch).run(b, t, begin, std::min(begin + split, seen), sums.after(unit));
    });
    for_each_unit(queries, Scratch::bytes<S>(stride), [&](int64_t query, Scratch scratch) {
      join<T>(a, sums.after(query * most), splits_of(query / a.queries), query, scratch);
    });
  });
}

}  // namespace cpu

namespace {
constexpr Kernel<FactorDecodeArgs> kFactorDecode{"factor_decode", &cpu::factor_decode,
                                                 T6_CUDA_KERNEL(cuda::factor_decode)};
}  // namespace

Tensor factor_decode(const Tensor& q, const FactorRows& cache, const Tensor& lengths, double scale) {
  const Tensor &a_k = cache.a_k, &b_k = cache.b_k, &a_v = cache.a_v, &b_v = cache.b_v;
  for (const Tensor* t : {&q, &a_k, &b_k, &a_v, &b_v}) {
    const bool alike = t->dtype() == q.dtype() && t->device() == q.device();
    T6_CHECK(t->shape().rank() == 4 && t->dim(0) == q.dim(0) && alike,
             "[factor_decode] expected four dimensions, the first {}, of {} on {}, got {} of {} on {}", q.dim(0),
             name_of(q.dtype()), to_string(q.device()), to_string(t->shape()), name_of(t->dtype()),
             to_string(t->device()));
  }
  const int64_t batch = q.dim(0), queries = q.dim(1), heads = q.dim(2), width = q.dim(3), capacity = a_k.dim(1);
  const int64_t rank_k = a_k.dim(3), rank_v = a_v.dim(3), v_width = b_v.dim(3);
  const bool fits = a_k.shape() == Shape{batch, capacity, heads, rank_k} && rank_k > 0 && rank_v > 0 &&
                    b_k.shape() == Shape{batch, capacity, rank_k, width} &&
                    a_v.shape() == Shape{batch, capacity, heads, rank_v} &&
                    b_v.shape() == Shape{batch, capacity, rank_v, v_width};
  T6_CHECK(
      fits,
      "[factor_decode] expected a_k [B, M, H, R_K], b_k [B, M, R_K, D], a_v [B, M, H, R_V], b_v [B, M, R_V, Dv] for "
      "q {}, got {}, {}, {}, {}",
      to_string(q.shape()), to_string(a_k.shape()), to_string(b_k.shape()), to_string(a_v.shape()),
      to_string(b_v.shape()));
  T6_CHECK(lengths.shape() == Shape{batch}, "[factor_decode] expected {} lengths, got {}", batch,
           to_string(lengths.shape()));
  for (int64_t b = 0; lengths.device().is_cpu() && b < batch; ++b) {
    const int32_t rows = lengths.data<int32_t>()[b];
    T6_CHECK(rows >= queries && rows <= capacity, "[factor_decode] expected lengths from {} to {}, got {}", queries,
             capacity, rows);
  }
  const Tensor rows = lengths.to(q.device());
  const Tensor o = Tensor::empty({batch, queries, heads, v_width}, q.dtype(), q.device());
  kFactorDecode(q.device(), {q.raw(), a_k.raw(), b_k.raw(), a_v.raw(), b_v.raw(), rows.data<int32_t>(), o.raw(), batch,
                             queries, capacity, heads, width, v_width, rank_k, rank_v, scale, q.dtype()});
  return o;
}

}  // namespace t6
