#include "autograd/tape.h"

#include <algorithm>
#include <unordered_set>

#include "base/error.h"

namespace t6 {
namespace {

thread_local bool grad_enabled = true;
thread_local uint64_t next_id = 1;
// Leaves read while a recompute segment runs forward; null outside of one.
thread_local std::vector<Variable>* segment_leaves = nullptr;

// Adds dx to what a slot holds, in place only where nobody else can see it.
void accumulate(Tensor& slot, Tensor dx) {
  if (!slot.defined()) {
    slot = std::move(dx);
  } else if (slot.sole_owner()) {
    slot.add_from(dx);
  } else if (dx.sole_owner() && dx.dtype() == slot.dtype()) {
    dx.add_from(slot);
    slot = std::move(dx);
  } else {
    slot = slot.clone();
    slot.add_from(dx);
  }
}

Tensor& parameter_grad(Variable::Impl& leaf) {
  if (!leaf.grad.defined()) {
    leaf.grad = Tensor::zeros(leaf.value.shape(), accumulate_dtype(leaf.value.dtype()), leaf.value.device());
  }
  return leaf.grad;
}

// Every node that `roots` depend on, newest first; counts the readers of each leaf.
std::vector<std::shared_ptr<Node>> collect(const std::vector<Variable>& roots) {
  std::vector<std::shared_ptr<Node>> nodes;
  std::unordered_set<const Node*> seen;
  auto visit = [&](const std::shared_ptr<Node>& node) {
    if (node != nullptr && seen.insert(node.get()).second) nodes.push_back(node);
  };
  for (const Variable& root : roots) visit(root.impl()->node);
  for (size_t i = 0; i < nodes.size(); ++i) {
    T6_CHECK(!nodes[i]->consumed, "[backward] the record of '{}' was consumed by an earlier backward()", nodes[i]->op);
    // `visit` may move `nodes`, never the node itself.
    const Node& node = *nodes[i];
    for (const Node::Edge& edge : node.inputs) visit(edge.node);
  }
  std::sort(nodes.begin(), nodes.end(), [](const auto& a, const auto& b) { return a->id > b->id; });
  return nodes;
}

void release_leaf(Variable::Impl& leaf) {
  if (--leaf.pending_readers == 0 && leaf.on_ready) leaf.on_ready();
}

}  // namespace

const Tensor& Gradients::output(int i) const {
  return node_.output_grads[static_cast<size_t>(i)];
}

bool Gradients::needs(int i) const {
  return node_.inputs[static_cast<size_t>(i)].wants_grad();
}

void Gradients::give(int i, Tensor dx) {
  Node::Edge& edge = node_.inputs[static_cast<size_t>(i)];
  if (!edge.wants_grad()) return;
  T6_CHECK(dx.numel() == edge.shape.numel(), "[{}] expected the gradient of input {} to have shape {}, got {}",
           node_.op, i, to_string(edge.shape), to_string(dx.shape()));
  if (edge.node != nullptr) {
    accumulate(edge.node->output_grads[static_cast<size_t>(edge.output)], std::move(dx));
  } else if (edge.leaf->leaf == Leaf::parameter) {
    parameter_grad(*edge.leaf).add_from(dx);
  } else {
    accumulate(edge.leaf->grad, std::move(dx));
  }
}

Tensor Gradients::accumulator(int i) {
  Node::Edge& edge = node_.inputs[static_cast<size_t>(i)];
  T6_CHECK(edge.wants_grad(), "[{}] input {} wants no gradient", node_.op, i);
  if (edge.leaf != nullptr && edge.leaf->leaf == Leaf::parameter) return parameter_grad(*edge.leaf);
  Tensor fresh = Tensor::zeros(edge.shape, accumulate_dtype(edge.dtype), edge.device);
  give(i, fresh);
  return fresh;
}

bool recording(std::initializer_list<const Variable*> inputs) {
  return grad_enabled && std::any_of(inputs.begin(), inputs.end(), [](const Variable* v) { return v->needs_grad(); });
}

Tensor gradient_buffer(const Variable& parameter) {
  T6_CHECK(parameter.is_leaf() && parameter.impl()->leaf == Leaf::parameter,
           "[gradient_buffer] expected a parameter of shape {}", to_string(parameter.shape()));
  return parameter_grad(*parameter.impl());
}

void record(const char* op, const std::vector<Variable>& inputs, const std::vector<Variable*>& outputs, BackwardFn fn) {
  if (segment_leaves != nullptr) {
    for (const Variable& v : inputs) {
      if (v.is_leaf() && v.needs_grad()) segment_leaves->push_back(v);
    }
  }
  if (!grad_enabled) return;
  if (std::none_of(inputs.begin(), inputs.end(), [](const Variable& v) { return v.needs_grad(); })) return;

  auto node = std::make_shared<Node>();
  node->id = next_id++;
  node->op = op;
  node->backward = std::move(fn);
  for (const Variable& v : inputs) {
    Node::Edge edge{v.impl()->node, v.impl()->output, nullptr, v.shape(), v.dtype(), v.device()};
    if (v.is_leaf() && v.needs_grad()) edge.leaf = v.impl();
    node->inputs.push_back(std::move(edge));
  }
  node->output_grads.resize(outputs.size());
  int index = 0;
  for (Variable* v : outputs) {
    v->impl()->node = node;
    v->impl()->output = index++;
  }
}

Variable reshape(const Variable& x, const Shape& shape) {
  Variable y(x.value().view(shape));
  record("reshape", {x}, {&y}, [old = x.shape()](Gradients& g) { g.give(0, g.output(0).view(old)); });
  return y;
}

NoGrad::NoGrad() : previous_(grad_enabled) {
  grad_enabled = false;
}
NoGrad::~NoGrad() {
  grad_enabled = previous_;
}

void run_backward(const std::vector<Variable>& roots, const std::vector<Tensor>& grads, bool fire_hooks) {
  std::vector<std::shared_ptr<Node>> nodes = collect(roots);
  if (fire_hooks) {
    for (const auto& node : nodes) {
      for (const Node::Edge& edge : node->inputs) {
        if (edge.leaf != nullptr) ++edge.leaf->pending_readers;
      }
    }
  }
  for (size_t i = 0; i < roots.size(); ++i) {
    const auto& impl = roots[i].impl();
    if (impl->node != nullptr && grads[i].defined()) {
      accumulate(impl->node->output_grads[static_cast<size_t>(impl->output)], grads[i]);
    }
  }
  const Node* root = roots.size() == 1 ? roots[0].impl()->node.get() : nullptr;
  for (std::shared_ptr<Node>& node : nodes) {
    const bool reached =
        std::any_of(node->output_grads.begin(), node->output_grads.end(), [](const Tensor& t) { return t.defined(); });
    if (reached) {
      Gradients gradients(*node, node.get() == root && fire_hooks);
      node->backward(gradients);
    }
    // Drop what the closure saved, and hand each leaf on, before older nodes run.
    node->backward = nullptr;
    node->output_grads.clear();
    node->consumed = true;
    if (fire_hooks) {
      for (const Node::Edge& edge : node->inputs) {
        if (edge.leaf != nullptr) release_leaf(*edge.leaf);
      }
    }
    node->inputs.clear();
    node.reset();
  }
}

void backward(const Variable& root) {
  T6_CHECK(root.defined() && root.value().numel() == 1, "[backward] expected a root with one element");
  T6_CHECK(root.impl()->node != nullptr, "[backward] the root depends on nothing that wants a gradient");
  run_backward({root}, {Tensor::full(root.shape(), root.dtype(), 1.0, root.device())}, true);
}

namespace {

// Collects the leaves read by the operations of a segment.
class SegmentScope {
 public:
  explicit SegmentScope(std::vector<Variable>& leaves) : previous_(segment_leaves) { segment_leaves = &leaves; }
  ~SegmentScope() { segment_leaves = previous_; }
  SegmentScope(const SegmentScope&) = delete;
  SegmentScope& operator=(const SegmentScope&) = delete;

 private:
  std::vector<Variable>* previous_;
};

void keep_first_of_each(std::vector<Variable>& leaves) {
  std::unordered_set<const Variable::Impl*> seen;
  std::erase_if(leaves, [&](const Variable& v) { return !seen.insert(v.impl().get()).second; });
}

}  // namespace

std::vector<Variable> recompute(const Segment& segment, const std::vector<Variable>& inputs) {
  if (!grad_enabled) return segment(inputs);

  // Inside the segment the inputs are leaves of their own, so that reading one is no reading of an outer leaf.
  std::vector<Variable> inner;
  for (const Variable& v : inputs) inner.push_back(v.detach());
  std::vector<Variable> leaves, outputs;
  {
    const NoGrad no_grad;
    const SegmentScope scope(leaves);
    outputs = segment(inner);
  }
  keep_first_of_each(leaves);
  for (Variable& v : outputs) v = v.detach();

  std::vector<Variable> reads = inputs;
  reads.insert(reads.end(), leaves.begin(), leaves.end());
  std::vector<Tensor> saved;
  for (const Variable& v : inputs) saved.push_back(v.value());
  BackwardFn fn = [segment, saved = std::move(saved), count = outputs.size()](Gradients& g) {
    std::vector<Variable> again;
    for (size_t i = 0; i < saved.size(); ++i) {
      again.emplace_back(saved[i], g.needs(static_cast<int>(i)) ? Leaf::input : Leaf::constant);
    }
    const std::vector<Variable> rebuilt = segment(again);
    std::vector<Tensor> grads;
    for (size_t i = 0; i < count; ++i) grads.push_back(g.output(static_cast<int>(i)));
    run_backward(rebuilt, grads, false);
    for (size_t i = 0; i < again.size(); ++i) {
      if (again[i].grad().defined()) g.give(static_cast<int>(i), again[i].grad());
    }
  };

  std::vector<Variable*> targets;
  for (Variable& v : outputs) targets.push_back(&v);
  record("recompute", reads, targets, std::move(fn));
  return outputs;
}

}  // namespace t6
