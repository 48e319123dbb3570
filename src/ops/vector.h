// Vectors of one 64-byte register, for loops whose sums must stay in registers. The compiler splits them on processors
// with narrower ones.
#pragma once

#include <cstdint>
#include <cstring>

namespace t6 {

template <class S>
struct Vector {
  static constexpr int64_t kLanes = 64 / static_cast<int64_t>(sizeof(S));
  typedef S Type __attribute__((vector_size(64)));

  static Type load(const S* from) {
    Type v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  static void store(S* to, Type v) { std::memcpy(to, &v, sizeof(v)); }
  // Pairwise, lane i and i + n for n = half of them, a quarter, ..., so that the order does not depend on the compiler.
  // Halves by shuffles: through memory they would wait for each other.
  static S sum(Type v) {
    typedef S Quarter __attribute__((vector_size(16)));
    typedef S Half __attribute__((vector_size(32)));
    if constexpr (kLanes == 16) {
      const Half half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                        __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
      const Quarter quarter =
          __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
      return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
    } else {
      static_assert(kLanes == 8);
      const Half half = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
      const Quarter quarter = __builtin_shufflevector(half, half, 0, 1) + __builtin_shufflevector(half, half, 2, 3);
      return quarter[0] + quarter[1];
    }
  }
  static int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
};

}  // namespace t6
