// op_check: one declaration of an operation (inputs, call, composed reference) serves every test of it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace t6::test {

// How an input appears in each precision mode.
enum class Role {
  activation,  // f64 | f32 | bf16
  residual,    // f64 | f32 | f32: the residual stream stays f32 in bf16 mode
  weight,      // a parameter: f64 | f32 | bf16 values, gradients accumulate in f64 | f32 | f32
  tokens,      // i32 in every mode, no gradient
};

struct Input {
  Shape shape;
  Role role = Role::activation;
  double low = -1.0, high = 1.0;  // uniform values; tokens: integers in [0, high)
  bool wants_grad = true;
};

// Relative bounds (norm of the difference over the norm of the expected) for values and gradients, per mode.
struct Tolerance {
  double f64 = 1e-12, f64_difference = 1e-6, f32 = 2e-6, bf16 = 1.5e-2;
};

struct OpCheck {
  std::string name;
  std::vector<Input> inputs;
  // The operation under test. `activation` is the dtype activations have in this mode (f64, f32, bf16).
  std::function<std::vector<Variable>(const std::vector<Variable>& inputs, DType activation)> call;
  // The same function composed of plain loops over f64 values.
  std::function<std::vector<std::vector<double>>(const std::vector<std::vector<double>>& inputs)> reference;
  Tolerance tolerance = {};
  bool bf16 = true;         // the operation has a bf16 mode
  bool differences = true;  // central differences of the reference; off where they would take long
  bool is_root = false;     // the operation returns a loss that must be the root of backward(): no cotangents
};

// Checks, reporting through GoogleTest:
//   f64 (CPU): value against the reference, gradients against central differences of the reference;
//   f32 and bf16 (on test_device(), see device.h): values and gradients against f64 on the same rounded inputs;
//   parameters' gradients are added to what was there; no byte is written outside a tensor; no output byte is left
//   unwritten.
void op_check(const OpCheck& check);

}  // namespace t6::test
