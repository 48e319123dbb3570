#include "tensor/shape.h"

#include <algorithm>

#include "base/error.h"

namespace t6 {

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  T6_CHECK(dims.size() <= kMaxRank, "[shape] expected at most {} dimensions, got {}", kMaxRank, dims.size());
  for (int64_t d : dims) T6_CHECK(d >= 0, "[shape] expected extents >= 0, got {}", d);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::operator[](int i) const {
  const int j = i < 0 ? i + rank_ : i;
  T6_CHECK(0 <= j && j < rank_, "[shape] no dimension {} in {}", i, to_string(*this));
  return dims_[static_cast<size_t>(j)];
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int64_t d : *this) {
    T6_CHECK(!__builtin_mul_overflow(n, d, &n), "[shape] {} has more elements than 64 bits count", to_string(*this));
  }
  return n;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

}  // namespace t6
