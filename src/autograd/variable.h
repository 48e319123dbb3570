// Variable: a tensor on the tape. Operations record how to send gradients back; backward() walks the record.
//
// An operation computes its output values, wraps them in Variables and calls record() with its inputs, outputs and a
// closure that captures exactly the tensors its header says are saved. Leaves are parameters (gradients accumulate, +=,
// in f32 or f64 whatever the dtype of the value) or plain inputs (gradients are assigned, in the dtype they arrive in).
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace t6 {

class Node;

enum class Leaf : uint8_t { constant, input, parameter };

class Variable {
 public:
  struct Impl {
    Tensor value;
    Tensor grad;
    Leaf leaf = Leaf::constant;
    std::shared_ptr<Node> node;  // what computed it; null for leaves
    int output = 0;              // which output of node
    std::function<void()> on_ready;
    int pending_readers = 0;  // nodes of the running backward that still may add to grad
  };

  Variable() = default;
  explicit Variable(Tensor value, Leaf leaf = Leaf::constant)
      : impl_(std::make_shared<Impl>(Impl{std::move(value), {}, leaf, nullptr, 0, {}, 0})) {}

  bool defined() const { return impl_ != nullptr; }
  const Tensor& value() const { return impl_->value; }
  const Shape& shape() const { return impl_->value.shape(); }
  int64_t dim(int i) const { return impl_->value.dim(i); }
  DType dtype() const { return impl_->value.dtype(); }
  Device device() const { return impl_->value.device(); }
  bool needs_grad() const { return impl_->node != nullptr || impl_->leaf != Leaf::constant; }
  bool is_leaf() const { return impl_->node == nullptr; }

  // Gradient of a leaf; undefined until something was added.
  const Tensor& grad() const { return impl_->grad; }
  // Replaces the gradient storage of a leaf (a slice of a bucket, say); an undefined tensor clears it.
  void set_grad(Tensor grad) const { impl_->grad = std::move(grad); }
  void set_value(Tensor value) const { impl_->value = std::move(value); }
  // Called once per backward(), after the last operation that reads this parameter has added its gradient.
  void set_on_ready(std::function<void()> hook) const { impl_->on_ready = std::move(hook); }

  // The same value, off the tape.
  Variable detach() const { return Variable(value()); }

  const std::shared_ptr<Impl>& impl() const { return impl_; }

 private:
  std::shared_ptr<Impl> impl_;
};

// What a backward closure reads and writes.
class Gradients {
 public:
  explicit Gradients(Node& node, bool is_root) : node_(node), is_root_(is_root) {}

  // Gradient with respect to output i; undefined when nothing downstream used it.
  const Tensor& output(int i) const;
  // Whether input i wants a gradient at all.
  bool needs(int i) const;
  // Sends `dx` to input i: assigned when it is the first, added otherwise. Takes over the tensor; other inputs may be
  // given the same one.
  void give(int i, Tensor dx);
  // Gradient buffer of input i for kernels that add (+=): the parameter's own f32/f64 buffer (zeroed when fresh),
  // shaped like the input. For an input that is no parameter a zeroed buffer that is given at once.
  Tensor accumulator(int i);
  // True when the node is the root that backward() was called on, so its output gradient is one.
  bool is_root() const { return is_root_; }

 private:
  Node& node_;
  bool is_root_;
};

using BackwardFn = std::function<void(Gradients&)>;

// True unless a NoGrad is alive on this thread, and at least one input needs a gradient: the operation must save for
// backward.
bool recording(std::initializer_list<const Variable*> inputs);

// The buffer that a parameter's gradient is added to: f32 (f64), shaped like the value, zeroed when there was none. For
// operations that add to it already in their forward pass and say so; others use Gradients::accumulator in backward.
// Error(internal) for anything but a parameter.
Tensor gradient_buffer(const Variable& parameter);

// Puts an operation on the tape when recording(inputs); otherwise does nothing. `op` names it in messages and profiles.
void record(const char* op, const std::vector<Variable>& inputs, const std::vector<Variable*>& outputs, BackwardFn fn);

// The same elements under another shape; the gradient goes back under the old one.
Variable reshape(const Variable& x, const Shape& shape);

// While alive, operations of this thread are not recorded.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};

// Adds d(root)/d(leaf) to every leaf that root depends on; root has one element. The record is consumed: closures and
// what they saved are dropped as soon as they ran. Error(internal) when it was consumed before.
void backward(const Variable& root);

// Runs `segment` on `inputs` without saving anything inside it, and runs it once more during backward to rebuild what
// its operations need. Outputs and gradients equal those of segment(inputs); leaves read inside count as inputs. The
// segment must be a pure function of its inputs and of leaves.
using Segment = std::function<std::vector<Variable>(const std::vector<Variable>&)>;
std::vector<Variable> recompute(const Segment& segment, const std::vector<Variable>& inputs);

}  // namespace t6
