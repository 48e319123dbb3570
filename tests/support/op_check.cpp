#include "support/op_check.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "support/device.h"

namespace t6::test {
namespace {

using Values = std::vector<double>;

constexpr double kGradOffset = 0.5;  // what a parameter's gradient holds before backward

enum class Mode { f64, f32, bf16 };

DType activation_dtype(Mode mode) {
  return mode == Mode::f64 ? DType::f64 : mode == Mode::f32 ? DType::f32 : DType::bf16;
}

DType dtype_in(Mode mode, Role role) {
  if (role == Role::tokens) return DType::i32;
  if (mode == Mode::bf16 && role == Role::residual) return DType::f32;
  return activation_dtype(mode);
}

Tensor to_tensor(const Shape& shape, const Values& values, DType dtype, Device device) {
  if (dtype == DType::i32) {
    return Tensor::from<int32_t>(shape, std::vector<int32_t>(values.begin(), values.end())).to(device);
  }
  return Tensor::from<double>(shape, values).to(dtype).to(device);
}

// Inputs every mode represents exactly, so that modes differ by their arithmetic alone.
std::vector<Values> make_inputs(const OpCheck& check) {
  std::vector<Values> all;
  for (size_t i = 0; i < check.inputs.size(); ++i) {
    const Input& input = check.inputs[i];
    const Philox rng(1234, RngPurpose::test, i);
    Values values(static_cast<size_t>(input.shape.numel()));
    for (size_t j = 0; j < values.size(); ++j) {
      values[j] = input.role == Role::tokens
                      ? static_cast<double>(rng.below(j, static_cast<uint64_t>(input.high)))
                      : static_cast<double>(static_cast<float>(
                            bfloat16(static_cast<float>(input.low + (input.high - input.low) * rng.uniform(j)))));
    }
    all.push_back(std::move(values));
  }
  return all;
}

double relative_error(const Values& got, const Values& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(norm), 1e-30);
}

void expect_close(const Values& got, const Values& expected, double bound, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  EXPECT_LE(relative_error(got, expected), bound) << what;
}

// Cotangents of the outputs: fixed weights that make a scalar of them.
Values cotangents(size_t output, size_t count) {
  const Philox rng(99, RngPurpose::test, output);
  Values values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = static_cast<double>(static_cast<float>(bfloat16(static_cast<float>(rng.uniform(i) - 0.4))));
  }
  return values;
}

double weighted_sum(const std::vector<Values>& outputs, bool is_root) {
  double sum = 0;
  for (size_t k = 0; k < outputs.size(); ++k) {
    const Values weights = is_root ? Values(outputs[k].size(), 1.0) : cotangents(k, outputs[k].size());
    for (size_t i = 0; i < outputs[k].size(); ++i) sum += weights[i] * outputs[k][i];
  }
  return sum;
}

// A scalar root over several outputs: backward sends each its cotangent.
Variable weigh(const std::vector<Variable>& outputs) {
  double sum = 0;
  for (size_t k = 0; k < outputs.size(); ++k) {
    const Values values = outputs[k].value().to_doubles(), weights = cotangents(k, values.size());
    for (size_t i = 0; i < values.size(); ++i) sum += values[i] * weights[i];
  }
  Variable root(Tensor::full({1}, DType::f64, sum));
  record("weigh", outputs, {&root}, [outputs](Gradients& g) {
    for (size_t k = 0; k < outputs.size(); ++k) {
      const Values weights = cotangents(k, static_cast<size_t>(outputs[k].value().numel()));
      g.give(static_cast<int>(k), to_tensor(outputs[k].shape(), weights, outputs[k].dtype(), outputs[k].device()));
    }
  });
  return root;
}

struct Result {
  std::vector<Values> outputs;
  std::vector<Values> grads;  // one an input; empty where none is wanted
};

Result run(const OpCheck& check, const std::vector<Values>& values, Mode mode, Device device) {
  memory::release_cached();
  memory::set_poison(true);
  std::vector<Variable> inputs;
  for (size_t i = 0; i < values.size(); ++i) {
    const Input& input = check.inputs[i];
    const bool wants = input.wants_grad && input.role != Role::tokens;
    const Leaf leaf = !wants ? Leaf::constant : input.role == Role::weight ? Leaf::parameter : Leaf::input;
    inputs.emplace_back(to_tensor(input.shape, values[i], dtype_in(mode, input.role), device), leaf);
    if (leaf == Leaf::parameter) {
      inputs.back().set_grad(
          Tensor::full(input.shape, mode == Mode::f64 ? DType::f64 : DType::f32, kGradOffset, device));
    }
  }
  Result result;
  {
    const std::vector<Variable> outputs = check.call(inputs, activation_dtype(mode));
    for (const Variable& v : outputs) result.outputs.push_back(v.value().to_doubles());
    backward(check.is_root ? outputs.at(0) : weigh(outputs));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    Values grad;
    if (inputs[i].needs_grad()) {
      EXPECT_TRUE(inputs[i].grad().defined()) << check.name << ": no gradient reached input " << i;
      if (inputs[i].grad().defined()) grad = inputs[i].grad().to_doubles();
      if (check.inputs[i].role == Role::weight) {
        for (double& x : grad) x -= kGradOffset;
      }
    }
    result.grads.push_back(std::move(grad));
  }
  EXPECT_NO_THROW(memory::check_guards()) << check.name;
  memory::set_poison(false);
  return result;
}

Values central_differences(const OpCheck& check, std::vector<Values> values, size_t input) {
  const double h = 1e-5;
  Values grad(values[input].size());
  for (size_t i = 0; i < grad.size(); ++i) {
    const double at = values[input][i];
    values[input][i] = at + h;
    const double above = weighted_sum(check.reference(values), check.is_root);
    values[input][i] = at - h;
    const double below = weighted_sum(check.reference(values), check.is_root);
    values[input][i] = at;
    grad[i] = (above - below) / (2 * h);
  }
  return grad;
}

void compare(const OpCheck& check, const Result& got, const Result& expected, double bound, const std::string& where) {
  for (size_t k = 0; k < expected.outputs.size(); ++k) {
    expect_close(got.outputs[k], expected.outputs[k], bound,
                 check.name + " " + where + ": output " + std::to_string(k));
  }
  for (size_t i = 0; i < expected.grads.size(); ++i) {
    expect_close(got.grads[i], expected.grads[i], bound,
                 check.name + " " + where + ": gradient of input " + std::to_string(i));
  }
}

}  // namespace

void op_check(const OpCheck& check) {
  const std::vector<Values> values = make_inputs(check);
  const Result exact = run(check, values, Mode::f64, kCpu);
  if (const Device device = test_device(); device.is_cuda()) {
    compare(check, run(check, values, Mode::f32, device), exact, check.tolerance.f32, "f32 cuda");
    if (check.bf16) compare(check, run(check, values, Mode::bf16, device), exact, check.tolerance.bf16, "bf16 cuda");
    return;
  }
  const std::vector<Values> expected = check.reference(values);
  ASSERT_EQ(exact.outputs.size(), expected.size()) << check.name;
  for (size_t k = 0; k < expected.size(); ++k) {
    expect_close(exact.outputs[k], expected[k], check.tolerance.f64, check.name + " f64: output " + std::to_string(k));
  }
  for (size_t i = 0; i < check.inputs.size(); ++i) {
    if (exact.grads[i].empty() || !check.differences) continue;
    expect_close(exact.grads[i], central_differences(check, values, i), check.tolerance.f64_difference,
                 check.name + " f64: gradient of input " + std::to_string(i));
  }
  compare(check, run(check, values, Mode::f32, kCpu), exact, check.tolerance.f32, "f32 cpu");
  if (check.bf16) compare(check, run(check, values, Mode::bf16, kCpu), exact, check.tolerance.bf16, "bf16 cpu");
}

}  // namespace t6::test
