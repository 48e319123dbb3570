// A tensor of heads, [batch, tokens, heads, width], by pointer.
#pragma once

#include <cstdint>

#include "ops/attention.h"

namespace t6::cpu {

template <class T>
struct HeadRows {
  T* data;
  int64_t tokens, heads, width;

  T* at(int64_t b, int64_t token, int64_t head) const { return data + ((b * tokens + token) * heads + head) * width; }
  int64_t stride() const { return heads * width; }  // between tokens
};

// The four tensors of an attention.
template <class T>
struct AttentionHeads {
  HeadRows<const T> q, k, v;
  HeadRows<T> o;

  explicit AttentionHeads(const AttentionArgs& a)
      : q{static_cast<const T*>(a.q), a.queries, a.heads, a.qk_width},
        k{static_cast<const T*>(a.k), a.keys, a.kv_heads, a.qk_width},
        v{static_cast<const T*>(a.v), a.keys, a.kv_heads, a.v_width},
        o{static_cast<T*>(a.o), a.queries, a.heads, a.v_width} {}
};

}  // namespace t6::cpu
