// Attention over splits of the cached keys ("Flash-Decoding"), on the CPU: what a split knows of one query, a step of
// its running softmax with heads as lanes, and how the splits of a query become one. Scores are of base two.
#pragma once

#include <algorithm>
#include <limits>

#include "ops/softmax_row.h"

namespace t6::cpu {

// Keys of one split of `keys`, a multiple of 64. Depends on their number alone, and with it the result of attention:
// not on the thread count, nor on the rest of the batch.
inline int64_t decode_split(int64_t keys) {
  constexpr int64_t kLeast = 64, kMost = 1024, kParts = 16;
  const int64_t part = (keys + kParts - 1) / kParts;
  return std::clamp((part + kLeast - 1) / kLeast * kLeast, kLeast, kMost);
}

// Of one query and split, for every lane (a head, or padding): the maximum and the sum of its scores, and the sum of
// values.
template <class S>
struct SplitSums {
  int64_t lanes, stride;
  S *max, *sum, *out;  // [lanes], [lanes], [lanes, stride]

  SplitSums(S* data, int64_t lanes_, int64_t stride_)
      : lanes(lanes_), stride(stride_), max(data), sum(data + lanes), out(data + 2 * lanes) {}
  static int64_t numbers(int64_t lanes, int64_t stride) { return Vector<S>::padded(lanes * (2 + stride)); }

  // The i-th split after this one, where a query's splits follow each other.
  SplitSums after(int64_t i) const { return {max + i * numbers(lanes, stride), lanes, stride}; }
  void clear() const {
    std::fill_n(max, lanes, -std::numeric_limits<S>::infinity());
    std::fill_n(sum, lanes, S(0));
    std::fill_n(out, lanes * stride, S(0));
  }
};

// Scores x [rows, n] of lanes [first, first + n), times c, become probabilities against the maximum so far; what was
// summed before is brought to it. `highest` [n] is scratch.
template <class S>
void softmax_lanes(S* x, int64_t rows, int64_t n, S c, S* highest, const SplitSums<S>& sums, int64_t first) {
  S *max = sums.max + first, *sum = sums.sum + first;
  std::copy_n(max, n, highest);
  for (int64_t r = 0; r < rows; ++r) {
    S* scores = x + r * n;
#pragma omp simd
    for (int64_t h = 0; h < n; ++h) {
      scores[h] *= c;
      highest[h] = scores[h] > highest[h] ? scores[h] : highest[h];
    }
  }
  for (int64_t h = 0; h < n; ++h) {
    const S correction = exp2_bounded(max[h] - highest[h]);
    max[h] = highest[h];
    sum[h] *= correction;
    if (correction != S(1)) scale_row(sums.out + (first + h) * sums.stride, sums.stride, correction);
  }
  for (int64_t r = 0; r < rows; ++r) {
    S* scores = x + r * n;
#pragma omp simd
    for (int64_t h = 0; h < n; ++h) {
      scores[h] = exp2_bounded(scores[h] - highest[h]);
      sum[h] += scores[h];
    }
  }
}

template <class S>
struct MaxAndSum {
  S max, sum;
};

// out [stride] = the sums of values of one lane of `splits` splits, brought to one maximum. Returns that and the sum of
// all scores' powers, by which `out` is still to be divided.
template <class S>
MaxAndSum<S> join_splits(const SplitSums<S>& first, int64_t splits, int64_t lane, S* out) {
  MaxAndSum<S> whole{first.max[lane], 0};
  for (int64_t i = 1; i < splits; ++i) whole.max = std::max(whole.max, first.after(i).max[lane]);
  std::fill_n(out, first.stride, S(0));
  for (int64_t i = 0; i < splits; ++i) {
    const SplitSums<S> split = first.after(i);
    const S weight = exp2_bounded(split.max[lane] - whole.max);
    whole.sum += weight * split.sum[lane];
    const S* from = split.out + lane * split.stride;
#pragma omp simd
    for (int64_t d = 0; d < first.stride; ++d) out[d] += weight * from[d];
  }
  return whole;
}

}  // namespace t6::cpu
