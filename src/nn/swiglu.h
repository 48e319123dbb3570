// The feed-forward block of every layer, SwiGLU, as a module over a ParameterStore; its operation is ops/swiglu.h.
#pragma once

#include <string>

#include "nn/linear.h"

namespace t6 {

// W_3 (silu(W_1 n) * (W_2 n)), W_1 and W_2 as one product, F padded inside.
class SwiGluMlp {
 public:
  SwiGluMlp(ParameterStore& store, const std::string& prefix, int64_t width, int64_t ff_width);

  Variable forward(const Variable& n) const;  // [rows, C] -> [rows, C]

 private:
  Linear gate_up_;
  const Parameter* down_;
};

}  // namespace t6
