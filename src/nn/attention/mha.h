// Multi-head attention: every query head has its own key/value head (G = H).
#pragma once

#include <cstdint>

#include "base/config.h"

namespace t6::mha {

// Key section `model.mha`.
struct Options {
  template <class V>
  void fields(V&) {}
  bool operator==(const Options&) const = default;
};

}  // namespace t6::mha
