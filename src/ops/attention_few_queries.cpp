#include "ops/attention_few_queries.h"

#include <algorithm>
#include <cmath>

#include "ops/head_rows.h"
#include "ops/lanes.h"
#include "ops/split_softmax.h"
#include "ops/wide_load.h"
#include "ops/work_units.h"

namespace t6::cpu {

namespace {

constexpr int64_t kKeys = 64;  // taken at a time: the keys of one step of the running softmax
// With fewer heads a group, lanes of registers are numbers of a head; from here on they are heads.
constexpr int64_t kManyHeads = 4;

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
  static int64_t lanes(const AttentionArgs& a) { return a.heads; }
  static int64_t lane_of(const AttentionArgs&, int64_t h) { return h; }
  static int64_t stride(const AttentionArgs& a) { return W::padded(a.v_width); }
  static void ordered(const S* out, S* values, int64_t n) { W::gather(out, values, n); }

  void query(int64_t b, int64_t t) {
    for (int64_t h = 0; h < a_.heads; ++h) W::spread(view_.q.at(b, t, h), a_.qk_width, q_ + h * depth_);
  }

  // Keys [j, j + n).
  void keys(int64_t b, int64_t j, int64_t n, const SplitSums<S>& sums) {
    const int64_t group = a_.heads / a_.kv_heads;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t g = 0; g < a_.kv_heads; ++g) {
        const T* k = view_.k.at(b, j + i, g);
        prefetch(reinterpret_cast<const char*>(k) + kAheadBytes, a_.qk_width * static_cast<int64_t>(sizeof(T)));
        for (int64_t h = g * group; h < (g + 1) * group; ++h) scores_[h * kKeys + i] = dot(k, q_ + h * depth_);
      }
    }
    const S c = static_cast<S>(a_.scale * kLog2e);
    for (int64_t h = 0; h < a_.heads; ++h) {
      softmax_step(scores_ + h * kKeys, n, c, sums.max[h], sums.sum[h], sums.out + h * sums.stride, sums.stride);
    }
    int64_t i = 0;
    for (; i + kTogether <= n; i += kTogether) add_values<kTogether>(b, j + i, scores_ + i, sums.out);
    for (; i < n; ++i) add_values<1>(b, j + i, scores_ + i, sums.out);
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
    highest_ = scratch.take<S>(ld_);
  }
  static int64_t bytes(const AttentionArgs& a) {
    const int64_t group = a.heads / a.kv_heads, ld = padded_columns<T>(group);
    return Scratch::bytes<E>(a.kv_heads * packed_size<T>(a.qk_width, group)) + Scratch::bytes<E>(packed_numbers(a)) +
           Scratch::bytes<S>((kKeys + 1) * ld) + Scratch::bytes<E>(kKeys * ld) + Scratch::bytes<S>(ld);
  }
  static int64_t lanes(const AttentionArgs& a) { return a.kv_heads * padded_columns<T>(a.heads / a.kv_heads); }
  static int64_t lane_of(const AttentionArgs& a, int64_t h) {
    const int64_t group = a.heads / a.kv_heads;
    return h / group * padded_columns<T>(group) + h % group;
  }
  static int64_t stride(const AttentionArgs& a) { return padded_columns<T>(a.v_width); }
  static void ordered(const S* out, S* values, int64_t n) { std::copy_n(out, n, values); }

  void query(int64_t b, int64_t t) {
    for (int64_t g = 0; g < a_.kv_heads; ++g) {
      pack_transposed(view_.q.at(b, t, g * group_), a_.qk_width, a_.qk_width, group_, q_of(g));
    }
  }

  void keys(int64_t b, int64_t j, int64_t n, const SplitSums<S>& sums) {
    for (int64_t g = 0; g < a_.kv_heads; ++g) {
      score(b, j, n, g);
      softmax_lanes(scores_, n, ld_, static_cast<S>(a_.scale * kLog2e), highest_, sums, g * ld_);
      add_values(b, j, n, g, sums.out + g * ld_ * sums.stride);
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

  // out [group, stride] += p^T v, with p_ [keys, ld] of numbers, or [keys / 2, ld] of pairs of keys.
  void add_values(int64_t b, int64_t j, int64_t n, int64_t g, S* out) {
    if constexpr (!std::is_same_v<E, S>) {
      if (n % 2 != 0) std::fill_n(scores_ + n * ld_, ld_, S(0));
      for (int64_t i = 0; i < n; i += 2) pair_rows(scores_ + i * ld_, scores_ + (i + 1) * ld_, p_ + i / 2 * ld_, ld_);
    }
    const T* v = view_.v.at(b, j, g);
    pack_columns(v, view_.v.stride(), n, a_.v_width, packed_);
    const int64_t depth = depth_of<T>(n);
    multiply<T>({p_, 1, ld_}, packed_, out, stride(a_), group_, a_.v_width, depth, true, [&](int64_t i, int64_t end) {
      const int64_t first = kKeys * i / group_, last = kKeys * end / group_;
      prefetch_rows(v + (kKeys + first) * view_.v.stride(), view_.v.stride(), last - first, a_.v_width);
      return Part{0, a_.v_width, 0, depth};
    });
  }

  const AttentionArgs& a_;
  AttentionHeads<T> view_;
  int64_t group_, ld_, depth_;
  E* q_;        // packed, a group after the other
  E* packed_;   // keys of a block, then its values
  S* scores_;   // [kKeys + 1, ld]
  E* p_;        // the same as elements
  S* highest_;  // [ld]
};

// o[h] = the sums of values of all splits over the whole sum of one head.
template <class T, class Kernel>
void join(const AttentionArgs& a, const SplitSums<Accumulate<T>>& first, int64_t splits, int64_t b, int64_t t,
          int64_t h, Scratch scratch) {
  using S = Accumulate<T>;
  S* out = scratch.take<S>(first.stride);
  S* values = scratch.take<S>(a.v_width);
  const MaxAndSum<S> whole = join_splits(first, splits, Kernel::lane_of(a, h), out);
  scale_row(out, first.stride, S(1) / whole.sum);
  Kernel::ordered(out, values, a.v_width);
  narrow(values, AttentionHeads<T>(a).o.at(b, t, h), a.v_width);
  if (a.lse != nullptr) {
    const S base_two = whole.max + std::log2(whole.sum);
    static_cast<S*>(a.lse)[(b * a.heads + h) * a.queries + t] = base_two / static_cast<S>(kLog2e);
  }
}

template <class T, class Kernel>
void decode(const AttentionArgs& a) {
  using S = Accumulate<T>;
  const int64_t queries = a.batch * a.queries, split = decode_split(a.offset + a.queries);
  const int64_t splits = (a.offset + a.queries + split - 1) / split;
  const int64_t lanes = Kernel::lanes(a), stride = Kernel::stride(a);
  const size_t numbers = static_cast<size_t>(queries * splits * SplitSums<S>::numbers(lanes, stride));
  const auto storage = Storage::allocate(numbers * sizeof(S), kCpu);
  const SplitSums<S> sums(reinterpret_cast<S*>(storage->data()), lanes, stride);
  for_each_unit(queries * splits, Kernel::bytes(a), [&](int64_t unit, Scratch scratch) {
    const int64_t b = unit / splits / a.queries, t = unit / splits % a.queries;
    const int64_t begin = unit % splits * split, end = std::min(begin + split, a.offset + t + 1);
    Kernel kernel(a, scratch);
    kernel.query(b, t);
    sums.after(unit).clear();
    for (int64_t j = begin; j < end; j += kKeys) kernel.keys(b, j, std::min(kKeys, end - j), sums.after(unit));
  });
  const int64_t bytes = Scratch::bytes<S>(stride) + Scratch::bytes<S>(a.v_width);
  for_each_unit(queries, bytes, [&](int64_t query, Scratch scratch) {
    for (int64_t h = 0; h < a.heads; ++h) {
      join<T, Kernel>(a, sums.after(query * splits), splits, query / a.queries, query % a.queries, h, scratch);
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
