#include "ops/factor_attention.h"

#include "ops/attention.h"

namespace t6 {
namespace {

struct Contracted {
  Tensor q, k, v;
};

Contracted contract(const Tensor& f, const FactorLayout& layout, const RopeTable& table, int64_t offset) {
  const NoGrad no_grad;
  const Qkv made = factor_contraction(Variable(f), layout, table, offset);
  return {made.q.value(), made.k.value(), made.v.value()};
}

}  // namespace

Variable factor_attention(const Variable& f, const FactorLayout& layout, const RopeTable& table, double scale,
                          int64_t offset) {
  const Tensor fv = f.value();
  const auto forward = [&] {
    const Contracted in = contract(fv, layout, table, offset);
    return attention_values(in.q, in.k, in.v, scale, recording({&f}));
  };
  const AttentionValues values = forward();
  Variable o(values.o);
  auto backward = [fv, values, layout, table, scale, offset](Gradients& g) {
    const auto gradients = [&]() -> std::array<Tensor, 3> {
      const Contracted in = contract(fv, layout, table, offset);
      const AttentionGradients d = attention_gradients(in.q, in.k, in.v, values, g.output(0), scale);
      return {d.dq, d.dk, d.dv};
    };
    g.give(0, factor_gradient(fv, gradients(), layout, table, offset));
  };
  record("factor_attention", {f}, {&o}, std::move(backward));
  return o;
}

}  // namespace t6
