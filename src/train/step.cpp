#include "train/step.h"

#include <limits>

#include "ops/global_norm.h"

namespace t6::train {

StepResult accumulate_gradient(const Transformer& model, const std::function<MicroBatch()>& next,
                               const StepOptions& options) {
  const ParameterStore& store = model.parameters();
  store.zero_gradient();
  const double scale =
      options.accumulation == Accumulation::mean ? 1.0 / static_cast<double>(options.micro_steps) : 1.0;
  double sum = 0;
  for (int64_t i = 0; i < options.micro_steps; ++i) {
    const MicroBatch batch = next();
    const Variable loss = model.loss(batch.tokens, batch.targets, scale, options.recompute);
    sum += loss.value().item() / scale;
    backward(loss);
  }
  StepResult result;
  result.loss = sum / static_cast<double>(options.micro_steps);
  const double limit = options.clip_norm > 0 ? options.clip_norm : std::numeric_limits<double>::infinity();
  const std::vector<double> norm = norm_and_clip(sum_of_squares({store.gradient()}), limit).to_doubles();
  result.grad_norm = norm[0];
  result.clip = norm[1];
  return result;
}

}  // namespace t6::train
