// Backward of attention on the CPU; see attention_cpu.cpp for the manner.
//
// Scores are kept transposed, [keys, rows]: then log-sum-exp and delta are vectors along a row, and the products that
// give dv and dk read P and dS as they are.
#include <algorithm>

#include "ops/attention.h"
#include "ops/exp2.h"
#include "ops/head_rows.h"
#include "ops/lanes.h"
#include "ops/work_units.h"

namespace t6::cpu {
namespace {

constexpr int64_t kRows = 128;  // queries of a tile
constexpr int64_t kKeys = 192;  // keys of a block, a multiple of kStripRows and even
constexpr int64_t kUnits = 64;  // groups of heads are split to get about this many units of work

// Consecutive heads of one group, whose dk and dv are summed in one buffer.
template <class T>
class BackwardHeads {
  using S = Accumulate<T>;
  using E = LaneElement<T>;
  static constexpr int64_t kPer = Lanes<T>::kPerElement;
  static constexpr bool kInPlace = std::is_same_v<E, S>;

 public:
  // dk [keys, padded qk_width] and dv [keys, padded v_width] are set to zero here.
  BackwardHeads(const AttentionBackwardArgs& args, int64_t b, int64_t g, S* dk, S* dv, Scratch scratch)
      : args_(args),
        a_(args.forward),
        b_(b),
        q_view_{static_cast<const T*>(a_.q), a_.queries, a_.heads, a_.qk_width},
        o_view_{static_cast<const T*>(a_.o), a_.queries, a_.heads, a_.v_width},
        d_o_view_{static_cast<const T*>(args.d_o), a_.queries, a_.heads, a_.v_width},
        qk_depth_(depth_of<T>(a_.qk_width)),
        v_depth_(depth_of<T>(a_.v_width)),
        qk_ld_(padded_columns<T>(a_.qk_width)),
        v_ld_(padded_columns<T>(a_.v_width)),
        dk_(dk),
        dv_(dv) {
    take(scratch);
    const HeadRows<const T> k{static_cast<const T*>(a_.k), a_.keys, a_.kv_heads, a_.qk_width};
    const HeadRows<const T> v{static_cast<const T*>(a_.v), a_.keys, a_.kv_heads, a_.v_width};
    pack_rows(k.at(b, 0, g), k.stride(), a_.keys, a_.qk_width, k_rows_);
    pack_rows(v.at(b, 0, g), v.stride(), a_.keys, a_.v_width, v_rows_);
    for (int64_t j = 0; j < a_.keys; j += kKeys) {
      pack_columns(k.at(b, j, g), k.stride(), std::min(kKeys, a_.keys - j), a_.qk_width, k_block(j));
    }
    std::fill_n(dk_, a_.keys * qk_ld_, S(0));
    std::fill_n(dv_, a_.keys * v_ld_, S(0));
  }

  static int64_t bytes(const AttentionArgs& a) {
    const int64_t qk_ld = padded_columns<T>(a.qk_width), v_ld = padded_columns<T>(a.v_width);
    return Scratch::bytes<E>(a.keys * depth_of<T>(a.qk_width)) + Scratch::bytes<E>(a.keys * depth_of<T>(a.v_width)) +
           Scratch::bytes<E>(k_packed(a)) + 2 * Scratch::bytes<E>(kRows * qk_ld) + 2 * Scratch::bytes<E>(kRows * v_ld) +
           2 * Scratch::bytes<S>(kKeys * kRows) + 3 * Scratch::bytes<E>(kKeys * kRows) +
           Scratch::bytes<S>(kRows * qk_ld) + 2 * Scratch::bytes<S>(kRows);
  }

  void head(int64_t h) {
    for (int64_t t = 0; t < a_.queries; t += kRows) tile(h, t, std::min(kRows, a_.queries - t));
  }

 private:
  static int64_t k_packed(const AttentionArgs& a) {
    return (a.keys + kKeys - 1) / kKeys * packed_size<T>(kKeys, a.qk_width);
  }
  E* k_block(int64_t j) { return k_columns_ + j / kKeys * packed_size<T>(kKeys, a_.qk_width); }

  void take(Scratch scratch) {
    k_rows_ = scratch.take<E>(a_.keys * qk_depth_);
    v_rows_ = scratch.take<E>(a_.keys * v_depth_);
    k_columns_ = scratch.take<E>(k_packed(a_));
    q_transposed_ = scratch.take<E>(kRows * qk_ld_);
    q_columns_ = scratch.take<E>(kRows * qk_ld_);
    d_o_transposed_ = scratch.take<E>(kRows * v_ld_);
    d_o_columns_ = scratch.take<E>(kRows * v_ld_);
    scores_ = scratch.take<S>(kKeys * kRows);
    dscores_ = scratch.take<S>(kKeys * kRows);
    p_ = kInPlace ? reinterpret_cast<E*>(scores_) : scratch.take<E>(kKeys * kRows);
    ds_ = kInPlace ? reinterpret_cast<E*>(dscores_) : scratch.take<E>(kKeys * kRows);
    ds_pairs_ = kInPlace ? reinterpret_cast<E*>(dscores_) : scratch.take<E>(kKeys * kRows);
    dq_ = scratch.take<S>(kRows * qk_ld_);
    lse_ = scratch.take<S>(kRows);
    delta_ = scratch.take<S>(kRows);
  }

  // Queries [first, first + rows) of head h.
  void tile(int64_t h, int64_t first, int64_t rows) {
    const T* q = q_view_.at(b_, first, h);
    const T* d_o = d_o_view_.at(b_, first, h);
    pack_transposed(q, q_view_.stride(), a_.qk_width, rows, q_transposed_);
    pack_columns(q, q_view_.stride(), rows, a_.qk_width, q_columns_);
    pack_transposed(d_o, d_o_view_.stride(), a_.v_width, rows, d_o_transposed_);
    pack_columns(d_o, d_o_view_.stride(), rows, a_.v_width, d_o_columns_);
    read_statistics(h, first, rows);
    const int64_t position = a_.offset + first;
    for (int64_t j = 0; j < position + rows; j += kKeys) {
      block(j, std::min(kKeys, position + rows - j), rows, j - position);
    }
    const HeadRows<T> dq{static_cast<T*>(args_.dq), a_.queries, a_.heads, a_.qk_width};
    for (int64_t t = 0; t < rows; ++t) narrow(dq_ + t * qk_ld_, dq.at(b_, first + t, h), a_.qk_width);
  }

  // lse in base two, delta = do . o
  void read_statistics(int64_t h, int64_t first, int64_t rows) {
    const S* lse = static_cast<const S*>(a_.lse) + (b_ * a_.heads + h) * a_.queries + first;
    for (int64_t t = 0; t < rows; ++t) {
      const T* o = o_view_.at(b_, first + t, h);
      const T* d_o = d_o_view_.at(b_, first + t, h);
      S dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t d = 0; d < a_.v_width; ++d) dot += static_cast<S>(o[d]) * static_cast<S>(d_o[d]);
      lse_[t] = lse[t] * static_cast<S>(kLog2e);
      delta_[t] = dot;
    }
  }

  // Keys [j, j + keys) of a tile; key i is seen by queries from `shift` + i on.
  void block(int64_t j, int64_t keys, int64_t rows, int64_t shift) {
    auto seen_from = [&](int64_t key) { return std::clamp<int64_t>(shift + key, 0, rows); };
    const int64_t row_depth = depth_of<T>(rows), p_ld = kRows / kPer;

    // S^T = K Q^T, dP^T = V dO^T
    multiply<T>({k_rows_ + j * qk_depth_, qk_depth_, 1}, q_transposed_, scores_, kRows, keys, rows, qk_depth_, false,
                [&](int64_t i, int64_t) {
                  return Part{seen_from(i), rows, 0, qk_depth_};
                });
    multiply<T>({v_rows_ + j * v_depth_, v_depth_, 1}, d_o_transposed_, dscores_, kRows, keys, rows, v_depth_, false,
                [&](int64_t i, int64_t) {
                  return Part{seen_from(i), rows, 0, v_depth_};
                });
    for (int64_t i = 0; i < keys; ++i) score_row(i, seen_from(i), rows);

    // dV += P^T dO, dK += dS^T Q
    multiply<T>({p_, p_ld, 1}, d_o_columns_, dv_ + j * v_ld_, v_ld_, keys, a_.v_width, row_depth, true,
                [&](int64_t i, int64_t) {
                  return Part{0, a_.v_width, seen_from(i) / kPer, row_depth};
                });
    multiply<T>({ds_, p_ld, 1}, q_columns_, dk_ + j * qk_ld_, qk_ld_, keys, a_.qk_width, row_depth, true,
                [&](int64_t i, int64_t) {
                  return Part{0, a_.qk_width, seen_from(i) / kPer, row_depth};
                });

    // dQ (+)= dS K
    if constexpr (!kInPlace) {
      for (int64_t i = 0; i < keys; i += 2) {
        // The last row of an odd number is paired with itself: its partner among the packed keys is zero.
        const S* second = dscores_ + std::min(i + 1, keys - 1) * kRows;
        pair_rows(dscores_ + i * kRows, second, ds_pairs_ + i / 2 * kRows, rows);
      }
    }
    multiply<T>({ds_pairs_, 1, kRows}, k_block(j), dq_, qk_ld_, rows, a_.qk_width,
                depth_of<T>(std::min(kKeys, a_.keys - j)), j > 0, [&](int64_t, int64_t end) {
                  return Part{0, a_.qk_width, 0, depth_of<T>(std::clamp<int64_t>(end - shift, 0, keys))};
                });
  }

  // P and dS of key i, zero for queries before `from`.
  void score_row(int64_t i, int64_t from, int64_t rows) {
    S* p = scores_ + i * kRows;
    S* ds = dscores_ + i * kRows;
    const S c = static_cast<S>(a_.scale * kLog2e), scale = static_cast<S>(a_.scale);
    constexpr int64_t kLanes = Vector<S>::kLanes;
#pragma omp simd
    for (int64_t t = from / kLanes * kLanes; t < rows; ++t) {
      p[t] = exp2_bounded(p[t] * c - lse_[t]);
      ds[t] = p[t] * (ds[t] - delta_[t]) * scale;
    }
    std::fill_n(p, from, S(0));
    std::fill_n(ds, from, S(0));
    round_row<T>(p, p_ + i * (kRows / kPer), rows);
    round_row<T>(ds, ds_ + i * (kRows / kPer), rows);
  }

  const AttentionBackwardArgs& args_;
  const AttentionArgs& a_;
  int64_t b_;
  HeadRows<const T> q_view_, o_view_, d_o_view_;
  int64_t qk_depth_, v_depth_, qk_ld_, v_ld_;
  S *dk_, *dv_;
  E *k_rows_, *v_rows_;               // [keys, depth]
  E* k_columns_;                      // by blocks of keys
  E *q_transposed_, *q_columns_;      // of the tile
  E *d_o_transposed_, *d_o_columns_;  // of the tile
  S *scores_, *dscores_;              // [kKeys, kRows]
  E *p_, *ds_;                        // the same as elements along the queries
  E* ds_pairs_;                       // the same as elements along the keys, [keys, kRows]
  S* dq_;                             // [kRows, padded qk_width]
  S *lse_, *delta_;                   // [kRows]
};

// Adds up what the chunks of a group gave, in order, and rounds: sums [B, G, chunks, keys, ld] -> y [B, keys, G,
// width].
template <class T>
void write_sums(const Accumulate<T>* sums, int64_t chunks, int64_t ld, const HeadRows<T>& y, int64_t b, int64_t g,
                Scratch scratch) {
  using S = Accumulate<T>;
  S* sum = scratch.take<S>(y.width);
  for (int64_t j = 0; j < y.tokens; ++j) {
    std::copy_n(sums + j * ld, y.width, sum);
    for (int64_t c = 1; c < chunks; ++c) {
      const S* from = sums + (c * y.tokens + j) * ld;
#pragma omp simd
      for (int64_t d = 0; d < y.width; ++d) sum[d] += from[d];
    }
    narrow(sum, y.at(b, j, g), y.width);
  }
}

template <class T>
void backward(const AttentionBackwardArgs& args) {
  using S = Accumulate<T>;
  const AttentionArgs& a = args.forward;
  const int64_t groups = a.batch * a.kv_heads, group = a.heads / a.kv_heads;
  const HeadRows<T> dk{static_cast<T*>(args.dk), a.keys, a.kv_heads, a.qk_width};
  const HeadRows<T> dv{static_cast<T*>(args.dv), a.keys, a.kv_heads, a.v_width};
  const int64_t dk_ld = padded_columns<T>(a.qk_width), dv_ld = padded_columns<T>(a.v_width);
  const int64_t dk_size = a.keys * dk_ld, dv_size = a.keys * dv_ld;

  // Chunks depend on the shape alone, so that sums do not depend on the thread count.
  const int64_t wanted = std::clamp<int64_t>(kUnits / std::max<int64_t>(1, groups), 1, group);
  const int64_t chunk = (group + wanted - 1) / wanted, chunks = (group + chunk - 1) / chunk;
  const bool whole = chunks == 1;  // then sums go straight from the thread's scratch to the result
  const int64_t kept = whole ? 0 : groups * chunks;
  const auto storage = Storage::allocate(static_cast<size_t>(kept * (dk_size + dv_size)) * sizeof(S), kCpu);
  S* dk_kept = reinterpret_cast<S*>(storage->data());
  S* dv_kept = dk_kept + kept * dk_size;
  const int64_t sum_bytes = Scratch::bytes<S>(std::max(a.qk_width, a.v_width));
  const int64_t bytes = BackwardHeads<T>::bytes(a) + sum_bytes +
                        (whole ? Scratch::bytes<S>(dk_size) + Scratch::bytes<S>(dv_size) : int64_t{0});

  for_each_unit(groups * chunks, bytes, [&](int64_t unit, Scratch scratch) {
    const int64_t b = unit / chunks / a.kv_heads, g = unit / chunks % a.kv_heads;
    const int64_t first = g * group + unit % chunks * chunk, end = std::min(first + chunk, (g + 1) * group);
    S* dk_sum = whole ? scratch.take<S>(dk_size) : dk_kept + unit * dk_size;
    S* dv_sum = whole ? scratch.take<S>(dv_size) : dv_kept + unit * dv_size;
    BackwardHeads<T> heads(args, b, g, dk_sum, dv_sum, scratch);
    for (int64_t h = first; h < end; ++h) heads.head(h);
    if (!whole) return;
    write_sums<T>(dk_sum, 1, dk_ld, dk, b, g, scratch);
    write_sums<T>(dv_sum, 1, dv_ld, dv, b, g, scratch);
  });
  if (whole) return;
  for_each_unit(groups, sum_bytes, [&](int64_t unit, Scratch scratch) {
    const int64_t b = unit / a.kv_heads, g = unit % a.kv_heads;
    write_sums<T>(dk_kept + unit * chunks * dk_size, chunks, dk_ld, dk, b, g, scratch);
    write_sums<T>(dv_kept + unit * chunks * dv_size, chunks, dv_ld, dv, b, g, scratch);
  });
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& args) {
  dispatch_float(args.forward.dtype, [&]<class T>(T) { backward<T>(args); });
}

}  // namespace t6::cpu
