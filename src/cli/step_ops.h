// The operations of a training step, each on its own: what t6 bench ops measures.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "autograd/variable.h"
#include "train/run_config.h"

namespace t6::cli {

// Makes tensors of random numbers in [-1/2, 1/2).
class Maker {
 public:
  explicit Maker(Device device);

  Tensor numbers(const Shape& shape, DType dtype) const;  // f32 or bf16
  void refill(const Tensor& tensor) const;                // the same into one that is there
  Variable input(const Shape& shape, DType dtype) const { return Variable(numbers(shape, dtype), Leaf::input); }
  Variable constant(const Shape& shape, DType dtype) const { return Variable(numbers(shape, dtype)); }
  Variable tokens(int64_t count, int64_t vocabulary) const;  // i32
  Device device() const { return device_; }

 private:
  Device device_;
  std::map<DType, Tensor> numbers_;
};

// A function of its inputs, which may be copied. Its outputs go backward, when there are any.
struct Work {
  std::vector<Variable> inputs;
  std::function<std::vector<Variable>(const std::vector<Variable>&)> call;
};

struct StepOp {
  std::string family;
  std::string name;
  std::string shape;
  std::function<Work()> setup;  // allocates; what it gives holds no more than the inputs and, for attention, weights
};

// In the order of step_op_families().
const std::vector<std::string>& step_op_families();

// At the shapes of config's micro-batch, in its precision. `make` outlives them.
std::vector<StepOp> step_ops(const RunConfig& config, const Maker& make);

}  // namespace t6::cli
