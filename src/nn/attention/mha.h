// Multi-head attention: every query head has its own key/value head (G = H).
#pragma once

#include <cstdint>

#include "base/config.h"
#include "nn/attention/attention.h"

namespace t6::mha {

// Key section `model.mha`.
struct Options {
  template <class V>
  void fields(V&) {}
  bool operator==(const Options&) const = default;
};

// Declares one layer's parameters "<prefix>..." in `store`.
std::unique_ptr<Attention> make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                const Options& options);

}  // namespace t6::mha
