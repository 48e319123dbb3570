// Multi-query attention: all query heads share one key/value head (G = 1).
#pragma once

#include <cstdint>

#include "base/config.h"
#include "nn/attention/attention.h"

namespace t6::mqa {

// Key section `model.mqa`.
struct Options {
  template <class V>
  void fields(V&) {}
  bool operator==(const Options&) const = default;
};

// Declares one layer's parameters "<prefix>..." in `store`.
std::unique_ptr<Attention> make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                const Options& options);

}  // namespace t6::mqa
