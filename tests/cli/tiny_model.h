// The config of a model that trains and decodes in no time.
#pragma once

#include <string>

namespace t6::test {

inline const std::string kTinyModel = R"(model:
  attention: tpa
  layers: 2
  width: 32
  heads: 4
  head_width: 8
  vocab_size: 320
  context: 32
  tpa: {rank_q: 2, rank_k: 1, rank_v: 1}
)";

}  // namespace t6::test
