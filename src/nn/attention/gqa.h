// Grouped-query attention: query head j reads key/value head j / (H / G).
#pragma once

#include <cstdint>

#include "base/config.h"
#include "nn/attention/attention.h"

namespace t6::gqa {

// Key section `model.gqa`.
struct Options {
  int64_t kv_heads = 2;  // G

  template <class V>
  void fields(V& v) {
    v.field("kv_heads", kv_heads, "key/value heads G; divides model.heads", config::range(1, 4096));
  }
  bool operator==(const Options&) const = default;
};

// Declares one layer's parameters "<prefix>..." in `store`.
std::unique_ptr<Attention> make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                const Options& options);

}  // namespace t6::gqa
