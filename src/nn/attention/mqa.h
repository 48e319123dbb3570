// Multi-query attention: all query heads share one key/value head (G = 1).
#pragma once

#include <cstdint>

#include "base/config.h"

namespace t6::mqa {

// Key section `model.mqa`.
struct Options {
  template <class V>
  void fields(V&) {}
  bool operator==(const Options&) const = default;
};

}  // namespace t6::mqa
