#include "nn/linear.h"

#include "ops/linear.h"

namespace t6 {

Linear::Linear(ParameterStore& store, const std::string& name, int64_t in, int64_t out, Init init)
    : Linear(store, {{name, {out, in}, init, 0}}, in, out) {}

Linear::Linear(ParameterStore& store, std::vector<ParameterView> views, int64_t in, int64_t storage_rows)
    : weight_(&store.declare(std::move(views), {storage_rows, in})) {}

Variable Linear::forward(const Variable& x) const {
  return linear(x, weight_->variable());
}

}  // namespace t6
