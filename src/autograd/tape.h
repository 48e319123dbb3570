// Nodes of the tape and the walk over them; the engine behind variable.h, not for users of it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "autograd/variable.h"

namespace t6 {

// One recorded operation. Holds its inputs' nodes or leaves, never its outputs' values.
class Node {
 public:
  struct Edge {
    std::shared_ptr<Node> node;            // set for the output of an operation
    int output = 0;                        // which one
    std::shared_ptr<Variable::Impl> leaf;  // set for a leaf that wants a gradient
    Shape shape;
    DType dtype = DType::f32;
    Device device;
    bool wants_grad() const { return node != nullptr || leaf != nullptr; }
  };

  uint64_t id = 0;  // creation order: an operation's id is above those of everything it depends on
  const char* op = "";
  std::vector<Edge> inputs;
  std::vector<Tensor> output_grads;
  BackwardFn backward;
  bool consumed = false;
};

// Runs everything `roots` depend on, newest first, with the given gradients of the roots (undefined: that root is
// skipped). `fire_hooks` is false for the inner walk of a recomputed segment, whose leaves the outer walk still counts.
void run_backward(const std::vector<Variable>& roots, const std::vector<Tensor>& grads, bool fire_hooks);

}  // namespace t6
