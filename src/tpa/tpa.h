// Tensor product attention: queries, keys and values as sums of products of a head factor and a token factor.
#pragma once

#include <cstdint>

#include "base/config.h"
#include "nn/attention/attention.h"

namespace t6::tpa {

// Key section `model.tpa`.
struct Options {
  static constexpr bool kHasFactors = true;  // of which keys and values can be made again

  int64_t rank_q = 6;
  int64_t rank_k = 2;
  int64_t rank_v = 2;

  template <class V>
  void fields(V& v) {
    v.field("rank_q", rank_q, "terms R_Q of a query", config::range(1, 1024));
    v.field("rank_k", rank_k, "terms R_K of a key", config::range(1, 1024));
    v.field("rank_v", rank_v, "terms R_V of a value", config::range(1, 1024));
  }
  bool operator==(const Options&) const = default;
};

// Declares one layer's parameters "<prefix>..." in `store`.
std::unique_ptr<Attention> make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                const Options& options);

}  // namespace t6::tpa
