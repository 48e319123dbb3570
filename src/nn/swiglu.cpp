#include "nn/swiglu.h"

#include <cmath>

#include "ops/linear.h"
#include "ops/swiglu.h"

namespace t6 {

SwiGluMlp::SwiGluMlp(ParameterStore& store, const std::string& prefix, int64_t width, int64_t ff_width)
    : gate_up_(store,
               {{prefix + "c_fc1.weight", {ff_width, width}, Init::uniform(1 / std::sqrt(width)), 0},
                {prefix + "c_fc2.weight",
                 {ff_width, width},
                 Init::uniform(1 / std::sqrt(width)),
                 padded(ff_width, kPadding)}},
               width, 2 * padded(ff_width, kPadding)),
      down_(&store.declare({{prefix + "c_proj.weight", {width, ff_width}, Init::zero(), 0}},
                           {width, padded(ff_width, kPadding)})) {}

Variable SwiGluMlp::forward(const Variable& n) const {
  return linear(swiglu(gate_up_.forward(n)), down_->variable());
}

}  // namespace t6
