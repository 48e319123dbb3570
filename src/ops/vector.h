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
  // Pairwise, so that the order does not depend on the compiler.
  static S sum(Type v) {
    S lanes[kLanes];
    store(lanes, v);
    for (int64_t n = kLanes / 2; n > 0; n /= 2) {
      for (int64_t i = 0; i < n; ++i) lanes[i] += lanes[i + n];
    }
    return lanes[0];
  }
  static int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
};

}  // namespace t6
