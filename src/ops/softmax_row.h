// The steps of a softmax over a row of scores in memory, for attention on the CPU.
#pragma once

#include "ops/exp2.h"
#include "ops/vector.h"

namespace t6::cpu {

// In registers by hand: gcc drops a simd max once the loop is inlined. n >= 1.
template <class S>
S max_of(const S* x, int64_t n) {
  using V = Vector<S>;
  constexpr int64_t kStep = 2 * V::kLanes;
  S max = x[0];
  int64_t i = 0;
  if (n >= kStep) {
    typename V::Type a = V::load(x), b = V::load(x + V::kLanes);
    for (i = kStep; i + kStep <= n; i += kStep) {
      const typename V::Type c = V::load(x + i), d = V::load(x + i + V::kLanes);
      a = a > c ? a : c;
      b = b > d ? b : d;
    }
    a = a > b ? a : b;
    for (int64_t lane = 0; lane < V::kLanes; ++lane) max = a[lane] > max ? a[lane] : max;
  }
  for (; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

// x = 2^(x c - shift); returns the sum.
template <class S>
S exp_and_sum(S* x, int64_t n, S c, S shift) {
  S sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    x[i] = exp2_bounded(x[i] * c - shift);
    sum += x[i];
  }
  return sum;
}

template <class S>
void scale_row(S* x, int64_t n, S factor) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

}  // namespace t6::cpu
