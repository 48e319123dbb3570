#include "nn/linear.h"

#include <cmath>

#include "ops/linear.h"
#include "ops/swiglu.h"

namespace t6 {

Linear::Linear(ParameterStore& store, const std::string& name, int64_t in, int64_t out, Init init)
    : Linear(store, {{name, {out, in}, init, 0}}, in, out) {}

Linear::Linear(ParameterStore& store, std::vector<ParameterView> views, int64_t in, int64_t storage_rows)
    : weight_(&store.declare(std::move(views), {storage_rows, in})) {}

Variable Linear::forward(const Variable& x) const {
  return linear(x, weight_->variable());
}

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
