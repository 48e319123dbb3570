// Attention on the CPU: tiles of query rows against blocks of keys, products by ops/lanes on the thread that owns the
// tile. What lies above the diagonal is left out strip by strip of a product, not only block by block.
#include <cmath>

#include "ops/attention.h"
#include "ops/attention_few_queries.h"
#include "ops/head_rows.h"
#include "ops/lanes.h"
#include "ops/softmax_row.h"
#include "ops/work_units.h"

namespace t6::cpu {
namespace {

constexpr int64_t kForwardRows = 96;   // queries of a tile, a multiple of kStripRows
constexpr int64_t kForwardKeys = 256;  // keys of a block, even: scores stay in the second-level cache

int64_t group_of(const AttentionArgs& a, int64_t head) {
  return head / (a.heads / a.kv_heads);
}

// One head's keys and values, packed, and its tiles.
template <class T>
class ForwardHead {
  using S = Accumulate<T>;
  using E = LaneElement<T>;

 public:
  // Keys [0, keys) of the group of head h.
  ForwardHead(const AttentionArgs& a, int64_t b, int64_t h, int64_t keys, Scratch scratch)
      : a_(a), view_(a), b_(b), h_(h), keys_(keys), v_ld_(padded_columns<T>(a.v_width)) {
    take(scratch);
    const int64_t g = group_of(a, h);
    for (int64_t j = 0; j < keys; j += kForwardKeys) {
      const int64_t n = std::min(kForwardKeys, keys - j);
      pack_transposed(view_.k.at(b, j, g), view_.k.stride(), a.qk_width, n, k_block(j));
      pack_columns(view_.v.at(b, j, g), view_.v.stride(), n, a.v_width, v_block(j));
    }
  }
  static int64_t bytes(const AttentionArgs& a, int64_t keys) {
    const int64_t v_ld = padded_columns<T>(a.v_width), block = kForwardRows * kForwardKeys;
    return Scratch::bytes<E>(keys_packed(a, keys)) + Scratch::bytes<E>(values_packed(a, keys)) +
           Scratch::bytes<E>(kForwardRows * depth_of<T>(a.qk_width)) + Scratch::bytes<S>(block) +
           Scratch::bytes<E>(block) + Scratch::bytes<S>(kForwardRows * v_ld) + 2 * Scratch::bytes<S>(kForwardRows);
  }

  void tile(int64_t first, int64_t rows) {
    pack_rows(view_.q.at(b_, first, h_), view_.q.stride(), rows, a_.qk_width, q_);
    const int64_t seen = a_.offset + first + 1;  // by the first row
    for (int64_t j = 0; j < seen + rows - 1; j += kForwardKeys) block(j, rows, seen - j);
    for (int64_t i = 0; i < rows; ++i) {
      scale_row(out_ + i * v_ld_, a_.v_width, S(1) / sum_[i]);
      narrow(out_ + i * v_ld_, view_.o.at(b_, first + i, h_), a_.v_width);
      if (a_.lse == nullptr) continue;
      static_cast<S*>(a_.lse)[(b_ * a_.heads + h_) * a_.queries + first + i] =
          max_[i] * static_cast<S>(a_.scale) + std::log(sum_[i]);
    }
  }

 private:
  static int64_t keys_packed(const AttentionArgs& a, int64_t keys) {
    return (keys + kForwardKeys - 1) / kForwardKeys * packed_size<T>(a.qk_width, kForwardKeys);
  }
  static int64_t values_packed(const AttentionArgs& a, int64_t keys) {
    return (keys + kForwardKeys - 1) / kForwardKeys * packed_size<T>(kForwardKeys, a.v_width);
  }
  E* k_block(int64_t j) { return k_ + j / kForwardKeys * packed_size<T>(a_.qk_width, kForwardKeys); }
  E* v_block(int64_t j) { return v_ + j / kForwardKeys * packed_size<T>(kForwardKeys, a_.v_width); }

  void take(Scratch scratch) {
    k_ = scratch.take<E>(keys_packed(a_, keys_));
    v_ = scratch.take<E>(values_packed(a_, keys_));
    q_ = scratch.take<E>(kForwardRows * depth_of<T>(a_.qk_width));
    scores_ = scratch.take<S>(kForwardRows * kForwardKeys);
    p_ = std::is_same_v<E, S> ? reinterpret_cast<E*>(scores_) : scratch.take<E>(kForwardRows * kForwardKeys);
    out_ = scratch.take<S>(kForwardRows * v_ld_);
    max_ = scratch.take<S>(kForwardRows);
    sum_ = scratch.take<S>(kForwardRows);
  }

  // Keys [j, j + kForwardKeys) for a tile; its row i sees `seen` + i of them or, if fewer, all.
  void block(int64_t j, int64_t rows, int64_t seen) {
    const int64_t columns = std::min(kForwardKeys, keys_ - j), keys = std::min(columns, seen + rows - 1);
    const int64_t q_depth = depth_of<T>(a_.qk_width), p_ld = kForwardKeys / Lanes<T>::kPerElement;
    auto seen_by = [&](int64_t row) { return std::clamp<int64_t>(seen + row, 0, keys); };

    multiply<T>({q_, q_depth, 1}, k_block(j), scores_, kForwardKeys, rows, columns, q_depth, false,
                [&](int64_t, int64_t end) {
                  return Part{0, seen_by(end - 1), 0, q_depth};
                });
    for (int64_t i = 0; i < rows; ++i)
      softmax_row(i, seen_by(i), seen_by(i / kStripRows * kStripRows + kStripRows - 1), j);
    multiply<T>({p_, p_ld, 1}, v_block(j), out_, v_ld_, rows, a_.v_width, depth_of<T>(columns), j > 0,
                [&](int64_t, int64_t end) {
                  return Part{0, a_.v_width, 0, depth_of<T>(seen_by(end - 1))};
                });
  }

  // Turns the scores of row i into probabilities against the maximum so far; sums before are brought to it. Zeros from
  // `seen` to `read`, what the row's strip is read to.
  void softmax_row(int64_t i, int64_t seen, int64_t read, int64_t j) {
    S* scores = scores_ + i * kForwardKeys;
    if (seen > 0) {
      const S c = static_cast<S>(a_.scale * kLog2e), before = max_[i];
      const S max = j > 0 ? std::max(before, max_of(scores, seen)) : max_of(scores, seen);
      const S sum = exp_and_sum(scores, seen, c, max * c);
      if (j == 0) {
        sum_[i] = sum;
      } else {
        const S correction = exp2_bounded((before - max) * c);
        sum_[i] = sum_[i] * correction + sum;
        if (correction != S(1)) scale_row(out_ + i * v_ld_, v_ld_, correction);
      }
      max_[i] = max;
    }
    std::fill(scores + seen, scores + std::max(seen, read), S(0));
    round_row<T>(scores, p_ + i * (kForwardKeys / Lanes<T>::kPerElement), read);
  }

  const AttentionArgs& a_;
  AttentionHeads<T> view_;
  int64_t b_, h_, keys_, v_ld_;
  E *k_, *v_;      // packed by blocks of keys: transposed keys, values
  E* q_;           // [rows, depth]
  S* scores_;      // [rows, kForwardKeys]
  E* p_;           // the same as elements
  S* out_;         // [rows, v_ld]
  S *max_, *sum_;  // [rows]: of the raw scores, of 2^(c (score - max))
};

}  // namespace

void attention(const AttentionArgs& a) {
  if (a.queries <= kFewQueries) return attention_few_queries(a);
  dispatch_float(a.dtype, [&]<class T>(T) {
    // A head's tiles are shared out only where there are fewer heads than threads could use: each share packs the keys.
    const int64_t tiles = (a.queries + kForwardRows - 1) / kForwardRows, heads = a.batch * a.heads;
    const int64_t shares = std::clamp<int64_t>(4 * omp_get_max_threads() / std::max<int64_t>(heads, 1), 1, tiles);
    for_each_unit(heads * shares, ForwardHead<T>::bytes(a, a.offset + a.queries), [&](int64_t unit, Scratch scratch) {
      const int64_t share = shares - 1 - unit % shares, bh = unit / shares;  // the longest first
      const int64_t begin = tiles * share / shares * kForwardRows;
      const int64_t end = std::min(tiles * (share + 1) / shares * kForwardRows, a.queries);
      ForwardHead<T> head(a, bh / a.heads, bh % a.heads, a.offset + end, scratch);
      for (int64_t t = begin; t < end; t += kForwardRows) head.tile(t, std::min(kForwardRows, end - t));
    });
  });
}

}  // namespace t6::cpu
