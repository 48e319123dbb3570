// Blocks of 32 numbers (f64: 16) as two registers of the accumulate type, for loops that read a matrix from memory once
// and multiply it by rows that stay in cache.
//
// A bf16 is the upper half of an f32, so a register of pairs gives its even numbers by a shift and its odd ones by a
// mask: two instructions for 32 numbers, exact, on any processor. What is multiplied with such registers is brought
// into the same order beforehand (spread) or back to the usual one afterwards (gather).
//
// Memory is asked for ahead of its use, beyond what the processor does by itself.
#pragma once

#include <algorithm>
#include <type_traits>

#include "ops/vector.h"
#include "tensor/dtype.h"

namespace t6::cpu {

// Asks for `bytes` of memory from `from` on, which need not be there.
inline void prefetch(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(from) + at);
}

template <class T>
struct WideBlock {
  using S = Accumulate<T>;
  using V = Vector<S>;
  using Register = typename V::Type;
  static constexpr int64_t kLanes = V::kLanes, kNumbers = 2 * kLanes;

  Register first, second;

  static int64_t padded(int64_t n) { return (n + kNumbers - 1) / kNumbers * kNumbers; }

  // kNumbers numbers.
  static WideBlock load(const T* from) {
    if constexpr (std::is_same_v<T, bfloat16>) {
      typedef uint32_t Pairs __attribute__((vector_size(64)));
      Pairs pairs;
      std::memcpy(&pairs, from, sizeof(pairs));
      return {reinterpret_cast<Register>(pairs << 16), reinterpret_cast<Register>(pairs & 0xFFFF0000U)};
    } else {
      return {V::load(from), V::load(from + kLanes)};
    }
  }
  // n < kNumbers of them, zeros behind; reads no others.
  static WideBlock load(const T* from, int64_t n) {
    T block[kNumbers] = {};
    std::copy_n(from, n, block);
    return load(block);
  }

  // y [padded(n)]: x as load() gives it, block by block, zeros behind.
  static void spread(const T* x, int64_t n, S* y) {
    for (int64_t i = 0; i < n; i += kNumbers, y += kNumbers) {
      const WideBlock block = n - i >= kNumbers ? load(x + i) : load(x + i, n - i);
      V::store(y, block.first);
      V::store(y + kLanes, block.second);
    }
  }
  // Its inverse, in the accumulate type: y [n].
  static void gather(const S* x, S* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t block = i / kNumbers * kNumbers, at = i % kNumbers;
      y[i] = x[block + (std::is_same_v<T, bfloat16> ? at / 2 + at % 2 * kLanes : at)];
    }
  }
};

}  // namespace t6::cpu
