#include "ops/attention_few_queries.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/head_rows.h"
#include "ops/lanes.h"
#include "ops/softmax_row.h"
#include "ops/wide_load.h"
#include "ops/work_units.h"

namespace t6::cpu {

int64_t decode_split(int64_t keys) {
  constexpr int64_t kLeast = 64, kMost = 1024, kParts = 16;
  const int64_t part = (keys + kParts - 1) / kParts;
  return std::clamp((part + kLeast - 1) / kLeast * kLeast, kLeast, kMost);
}

namespace {

constexpr int64_t kKeys = 64;  // taken at a time: the keys of one step of the running softmax
// With fewer heads a group, lanes of registers are numbers of a head; from here on they are heads.
constexpr int64_t kManyHeads = 4;

// What a split knows of one query: for every head the maximum and the sum of its scores (base two, scaled), and the sum
// of values, `stride` numbers in an order of the kernel's own.
template <class S>
struct Partial {
  S *max, *sum, *out;  // [heads], [heads], [heads, stride]

  Partial(S* data, int64_t heads) : max(data), sum(data + heads), out(data + 2 * heads) {}
};

// Brings the scores x [n] of one head to probabilities against the maximum so far; `sums` [stride] is what was summed
// before.
template <class S>
void softmax_step(S* x, int64_t n, S c, S& max, S& sum, S* sums, int64_t stride) {
  const S highest = std::max(max, max_of(x, n) * c), correction = exp2_bounded(max - highest);
  sum = sum * correction + exp_and_sum(x, n, c, highest);
  if (correction != S(1)) scale_row(sums, stride, correction);
  max = highest;
}

// Few heads a group (mha): a key's numbers against a head's, one key after the other as they lie in memory.
template <class T>
class NumberLanes {
  using S = Accumulate<T>;
  using W = WideBlock<T>;
  using V = typename W::V;

 public:
  NumberLanes(const AttentionArgs& a, Scratch scratch) : a_(a), view_(a), depth_(W::padded(a.qk_width)) {
    q_ = scratch.take<S>(a.heads * depth_);
    scores_ = scratch.take<S>(a.heads * kKeys);
  }
  static int64_t bytes(const AttentionArgs& a) {
    return Scratch::bytes<S>(a.heads * W::padded(a.qk_width)) + Scratch::bytes<S>(a.heads * kKeys);
  }
  static int64_t stride(const AttentionArgs& a) { return W::padded(a.v_width); }
  static void ordered(const S* out, S* values, int64_t n) { W::gather(out, values, n); }

  void query(int64_t b, int64_t t) {
    for (int64_t h = 0; h < a_.heads; ++h) W::spread(view_.q.at(b, t, h), a_.qk_width, q_ + h * depth_);
  }

  // Keys [j, j + n).
  void keys(int64_t b, int64_t j, int64_t n, const Partial<S>& partial) {
    const int64_t group = a_.heads / a_.kv_heads, v_stride = stride(a_);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t g = 0; g < a_.kv_heads; ++g) {
        const T* k = view_.k.at(b, j + i, g);
        prefetch(reinterpret_cast<const char*>(k) + kAheadBytes, a_.qk_width * static_cast<int64_t>(sizeof(T)));
        for (int64_t h = g * group; h < (g + 1) * group; ++h) scores_[h * kKeys + i] = dot(k, q_ + h * depth_);
      }
    }
    const S c = static_cast<S>(a_.scale * kLog2e);
    for (int64_t h = 0; h < a_.heads; ++h) {
      softmax_step(scores_ + h * kKeys, n, c, partial.max[h], partial.sum[h], partial.out + h * v_stride, v_stride);
    }
    int64_t i = 0;
    for (; i + kTogether <= n; i += kTogether) add_values<kTogether>(b, j + i, scores_ + i, partial.out);
    for (; i < n; ++i) add_values<1>(b, j + i, scores_ + i, partial.out);
  }

 private:
  static constexpr int kTogether = 4;
  static constexpr int64_t kAheadBytes = 4096;

  S dot(const T* k, const S* q) const {
    typename W::Register first{}, second{};
    int64_t d = 0;
    for (; d + W::kNumbers <= a_.qk_width; d += W::kNumbers) {
      const W block = W::load(k + d);
      first += block.first * V::load(q + d);
      second += block.second * V::load(q + d + W::kLanes);
    }
    if (d < a_.qk_width) {
      const W block = W::load(k + d, a_.qk_width - d);
      first += block.first * V::load(q + d);
      second += block.second * V::load(q + d + W::kLanes);
    }
    return V::sum(first + second);
  }

  // out[h] += sum over N keys from j on of p[h] v; p [heads, kKeys].
  template <int N>
  void add_values(int64_t b, int64_t j, const S* p, S* out) {
    const int64_t group = a_.heads / a_.kv_heads, v_stride = stride(a_);
    for (int64_t g = 0; g < a_.kv_heads; ++g) {
      const T* v = view_.v.at(b, j, g);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        S* to = out + h * v_stride;
        for (int64_t d = 0; d < a_.v_width; d += W::kNumbers) {
          typename W::Register first = V::load(to + d), second = V::load(to + d + W::kLanes);
          const bool whole = d + W::kNumbers <= a_.v_width;
#pragma GCC unroll 4
          for (int i = 0; i < N; ++i) {
            const T* from = v + i * view_.v.stride() + d;
            prefetch(reinterpret_cast<const char*>(from) + N * view_.v.stride() * static_cast<int64_t>(sizeof(T)),
                     W::kNumbers * static_cast<int64_t>(sizeof(T)));
            const W block = whole ? W::load(from) : W::load(from, a_.v_width - d);
            first += p[h * kKeys + i] * block.first;
            second += p[h * kKeys + i] * block.second;
          }
          V::store(to + d, first);
          V::store(to + d + W::kLanes, second);
        }
      }
    }
  }

  const AttentionArgs& a_;
  AttentionHeads<T> view_;
  int64_t depth_;
  S* q_;       // [heads, depth] spread
  S* scores_;  // [heads, kKeys]
};

// Many heads a group (mqa, gqa, mla): products of a block of keys with all queries of the group. A copy of the block is
// multiplied: memory is read fastest in its order, a product reads several rows side by side.
template <class T>
class HeadLanes {
  using S = Accumulate<T>;
  using E = LaneElement<T>;

 public:
  HeadLanes(const AttentionArgs& a, Scratch scratch)
      : a_(a), view_(a), group_(a.heads / a.kv_heads), ld_(padded_columns<T>(group_)), depth_(depth_of<T>(a.qk_width)) {
    q_ = scratch.take<E>(a.kv_heads * packed_size<T>(a.qk_width, group_));
    packed_ = scratch.take<E>(packed_numbers(a));
    scores_ = scratch.take<S>((kKeys + 1) * ld_);
    p_ = std::is_same_v<E, S> ? reinterpret_cast<E*>(scores_) : scratch.take<E>(kKeys * ld_);
    correction_ = scratch.take<S>(ld_);
  }
  static int64_t bytes(const AttentionArgs& a) {
    const int64_t group = a.heads / a.kv_heads, ld = padded_columns<T>(group);
    return Scratch::bytes<E>(a.kv_heads * packed_size<T>(a.qk_width, group)) + Scratch::bytes<E>(packed_numbers(a)) +
           Scratch::bytes<S>((kKeys + 1) * ld) + Scratch::bytes<E>(kKeys * ld) + Scratch::bytes<S>(ld);
  }
  static int64_t stride(const AttentionArgs& a) { return padded_columns<T>(a.v_width); }
  static void ordered(const S* out, S* values, int64_t n) { std::copy_n(out, n, values); }

  void query(int64_t b, int64_t t) {
    for (int64_t g = 0; g < a_.kv_heads; ++g) {
      pack_transposed(view_.q.at(b, t, g * group_), a_.qk_width, a_.qk_width, group_, q_of(g));
    }
  }

  void keys(int64_t b, int64_t j, int64_t n, const Partial<S>& partial) {
    for (int64_t g = 0; g < a_.kv_heads; ++g) {
      const int64_t h = g * group_;
      score(b, j, n, g);
      softmax(n, partial.max + h, partial.sum + h, partial.out + h * stride(a_));
      add_values(b, j, n, g, partial.out + h * stride(a_));
    }
  }

 private:
  static int64_t packed_numbers(const AttentionArgs& a) {
    return std::max(kKeys * depth_of<T>(a.qk_width), packed_size<T>(kKeys, a.v_width));
  }
  // Rows of the next block, asked for while this one is multiplied; where keys are values, too, they are there already.
  static void prefetch_rows(const T* from, int64_t stride, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; ++i) prefetch(from + i * stride, width * static_cast<int64_t>(sizeof(T)));
  }
  E* q_of(int64_t g) { return q_ + g * packed_size<T>(a_.qk_width, group_); }

  // scores_ [keys, ld] = k . q
  void score(int64_t b, int64_t j, int64_t n, int64_t g) {
    const T* k = view_.k.at(b, j, g);
    pack_rows(k, view_.k.stride(), n, a_.qk_width, packed_);
    multiply<T>({packed_, depth_, 1}, q_of(g), scores_, ld_, n, group_, depth_, false, [&](int64_t i, int64_t end) {
      prefetch_rows(k + (kKeys + i) * view_.k.stride(), view_.k.stride(), end - i, a_.qk_width);
      return Part{0, group_, 0, depth_};
    });
  }

  // Lanes are heads. p_ [keys, ld] of numbers, or [keys / 2, ld] of pairs of keys.
  void softmax(int64_t n, S* max, S* sum, S* out) {
    const S c = static_cast<S>(a_.scale * kLog2e);
    S* highest = correction_;
    std::copy_n(max, group_, highest);
    std::fill(highest + group_, highest + ld_, S(0));
    for (int64_t i = 0; i < n; ++i) {
      S* scores = scores_ + i * ld_;
#pragma omp simd
      for (int64_t h = 0; h < ld_; ++h) {
        scores[h] *= c;
        highest[h] = scores[h] > highest[h] ? scores[h] : highest[h];
      }
    }
    S sums[kMostLanes] = {};
    for (int64_t h0 = 0; h0 < ld_; h0 += kMostLanes) {
      const int64_t lanes = std::min(kMostLanes, ld_ - h0);
      std::fill_n(sums, lanes, S(0));
      for (int64_t i = 0; i < n; ++i) {
        S* scores = scores_ + i * ld_ + h0;
#pragma omp simd
        for (int64_t h = 0; h < lanes; ++h) {
          scores[h] = exp2_bounded(scores[h] - highest[h0 + h]);
          sums[h] += scores[h];
        }
      }
      for (int64_t h = h0; h < std::min(h0 + lanes, group_); ++h) {
        const S correction = exp2_bounded(max[h] - highest[h]);
        max[h] = highest[h];
        sum[h] = sum[h] * correction + sums[h - h0];
        if (correction != S(1)) scale_row(out + h * stride(a_), stride(a_), correction);
      }
    }
    if constexpr (!std::is_same_v<E, S>) {
      if (n % 2 != 0) std::fill_n(scores_ + n * ld_, ld_, S(0));
      for (int64_t i = 0; i < n; i += 2) pair_rows(scores_ + i * ld_, scores_ + (i + 1) * ld_, p_ + i / 2 * ld_, ld_);
    }
  }

  // out [group, stride] += p^T v
  void add_values(int64_t b, int64_t j, int64_t n, int64_t g, S* out) {
    const T* v = view_.v.at(b, j, g);
    pack_columns(v, view_.v.stride(), n, a_.v_width, packed_);
    const int64_t depth = depth_of<T>(n);
    multiply<T>({p_, 1, ld_}, packed_, out, stride(a_), group_, a_.v_width, depth, true, [&](int64_t i, int64_t end) {
      const int64_t first = kKeys * i / group_, last = kKeys * end / group_;
      prefetch_rows(v + (kKeys + first) * view_.v.stride(), view_.v.stride(), last - first, a_.v_width);
      return Part{0, a_.v_width, 0, depth};
    });
  }

  static constexpr int64_t kMostLanes = 64;

  const AttentionArgs& a_;
  AttentionHeads<T> view_;
  int64_t group_, ld_, depth_;
  E* q_;           // packed, a group after the other
  E* packed_;      // keys of a block, then its values
  S* scores_;      // [kKeys + 1, ld]
  E* p_;           // the same as elements
  S* correction_;  // [ld]
};

// One split: keys [begin, end) for query t of batch row b.
template <class Kernel, class S>
void run_split(Kernel& kernel, const AttentionArgs& a, int64_t b, int64_t t, int64_t begin, int64_t end,
               const Partial<S>& partial) {
  kernel.query(b, t);
  std::fill_n(partial.max, a.heads, -std::numeric_limits<S>::infinity());
  std::fill_n(partial.sum, a.heads, S(0));
  std::fill_n(partial.out, a.heads * Kernel::stride(a), S(0));
  for (int64_t j = begin; j < end; j += kKeys) kernel.keys(b, j, std::min(kKeys, end - j), partial);
}

// o[h] = sum over splits of their sums, brought to one maximum, over the whole sum of one head.
template <class T, class Kernel>
void combine(const AttentionArgs& a, Accumulate<T>* partials, int64_t partial_size, int64_t splits, int64_t b,
             int64_t t, int64_t h, Scratch scratch) {
  using S = Accumulate<T>;
  const int64_t stride = Kernel::stride(a);
  S* out = scratch.take<S>(stride);
  S* values = scratch.take<S>(a.v_width);
  const auto partial = [&](int64_t split) { return Partial<S>(partials + split * partial_size, a.heads); };
  S max = partial(0).max[h], sum = 0;
  for (int64_t split = 1; split < splits; ++split) max = std::max(max, partial(split).max[h]);
  std::fill_n(out, stride, S(0));
  for (int64_t split = 0; split < splits; ++split) {
    const Partial<S> p = partial(split);
    const S weight = exp2_bounded(p.max[h] - max);
    sum += weight * p.sum[h];
    const S* from = p.out + h * stride;
#pragma omp simd
    for (int64_t d = 0; d < stride; ++d) out[d] += weight * from[d];
  }
  scale_row(out, stride, S(1) / sum);
  Kernel::ordered(out, values, a.v_width);
  narrow(values, AttentionHeads<T>(a).o.at(b, t, h), a.v_width);
  if (a.lse != nullptr) {
    static_cast<S*>(a.lse)[(b * a.heads + h) * a.queries + t] = (max + std::log2(sum)) / static_cast<S>(kLog2e);
  }
}

template <class T, class Kernel>
void decode(const AttentionArgs& a) {
  using S = Accumulate<T>;
  const int64_t queries = a.batch * a.queries, split = decode_split(a.offset + a.queries);
  const int64_t splits = (a.offset + a.queries + split - 1) / split;
  const int64_t partial_size = Scratch::bytes<S>(a.heads * (2 + Kernel::stride(a))) / static_cast<int64_t>(sizeof(S));
  const auto storage = Storage::allocate(static_cast<size_t>(queries * splits * partial_size) * sizeof(S), kCpu);
  S* partials = reinterpret_cast<S*>(storage->data());
  for_each_unit(queries * splits, Kernel::bytes(a), [&](int64_t unit, Scratch scratch) {
    const int64_t b = unit / splits / a.queries, t = unit / splits % a.queries, begin = unit % splits * split;
    Kernel kernel(a, scratch);
    run_split(kernel, a, b, t, begin, std::min(begin + split, a.offset + t + 1),
              Partial<S>(partials + unit * partial_size, a.heads));
  });
  const int64_t bytes = Scratch::bytes<S>(Kernel::stride(a)) + Scratch::bytes<S>(a.v_width);
  for_each_unit(queries, bytes, [&](int64_t query, Scratch scratch) {
    for (int64_t h = 0; h < a.heads; ++h) {
      combine<T, Kernel>(a, partials + query * splits * partial_size, partial_size, splits, query / a.queries,
                         query % a.queries, h, scratch);
    }
  });
}

}  // namespace

void attention_few_queries(const AttentionArgs& a) {
  if (a.batch * a.queries * a.heads == 0) return;
  dispatch_float(a.dtype, [&]<class T>(T) {
    if (a.heads / a.kv_heads < kManyHeads) {
      decode<T, NumberLanes<T>>(a);
    } else {
      decode<T, HeadLanes<T>>(a);
    }
  });
}

}  // namespace t6::cpu
