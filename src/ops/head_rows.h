// A tensor of heads, [batch, tokens, heads, width], by pointer.
#pragma once

#include <cstdint>

namespace t6::cpu {

template <class T>
struct HeadRows {
  T* data;
  int64_t tokens, heads, width;

  T* at(int64_t b, int64_t token, int64_t head) const { return data + ((b * tokens + token) * heads + head) * width; }
  int64_t stride() const { return heads * width; }  // between tokens
};

}  // namespace t6::cpu
