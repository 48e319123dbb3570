// Multi-head latent attention (DeepSeek-V2 form): queries, keys and values from low-rank codes, RoPE on a part of its
// own.
#pragma once

#include <cstdint>

#include "base/config.h"
#include "nn/attention/attention.h"

namespace t6::mla {

// Key section `model.mla`.
struct Options {
  int64_t q_rank = 512;
  int64_t kv_rank = 256;
  int64_t rope_width = 32;

  template <class V>
  void fields(V& v) {
    v.field("q_rank", q_rank, "width of the query code", config::range(1, 65536));
    v.field("kv_rank", kv_rank, "width of the key/value code, cached for decoding", config::range(1, 65536));
    v.field("rope_width", rope_width, "rotated part of a head, beside model.head_width unrotated; even",
            config::range(2, 1024));
  }
  bool operator==(const Options&) const = default;
};

// Declares one layer's parameters "<prefix>..." in `store`.
std::unique_ptr<Attention> make(ParameterStore& store, const std::string& prefix, const AttentionShape& shape,
                                const Options& options);

}  // namespace t6::mla
