#include "ops/factor_decode.h"

#include "ops/decode_cuda/decode.h"

namespace t6::cuda {

void factor_decode(const FactorDecodeArgs& a) {
  decode({.q = a.q,
          .a_k = a.a_k,
          .b_k = a.b_k,
          .a_v = a.a_v,
          .b_v = a.b_v,
          .lengths = a.lengths,
          .o = a.o,
          .length = 0,
          .batch = a.batch,
          .queries = a.queries,
          .capacity = a.capacity,
          .groups = 1,
          .heads = a.heads,
          .width = a.width,
          .v_width = a.v_width,
          .rank_k = a.rank_k,
          .rank_v = a.rank_v,
          .scale = a.scale,
          .dtype = a.dtype});
}

}  // namespace t6::cuda
