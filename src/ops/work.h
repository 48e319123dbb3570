// The fewest bytes that kernels move, for profiles: every operand once. Beside each argument struct stands a bytes_of()
// of its call; tables and scratch that caches hold are not counted.
#pragma once

#include <algorithm>

#include "tensor/dtype.h"

namespace t6 {

// Of `count` numbers.
constexpr double bytes_of(int64_t count, DType dtype) {
  return static_cast<double>(count) * static_cast<double>(size_of(dtype));
}

}  // namespace t6
