#include <gtest/gtest.h>

#include "autograd/variable.h"
#include "base/error.h"

namespace t6 {
namespace {

int multiply_backwards = 0;

// y = a b, element-wise.
Variable multiply(const Variable& a, const Variable& b) {
  const Tensor av = a.value(), bv = b.value();
  auto product = [](const Tensor& x, const Tensor& y) {
    Tensor z = Tensor::empty(x.shape(), DType::f32);
    for (int64_t i = 0; i < x.numel(); ++i) z.data<float>()[i] = x.data<float>()[i] * y.data<float>()[i];
    return z;
  };
  Variable y(product(av, bv));
  record("multiply", {a, b}, {&y}, [=](Gradients& g) {
    ++multiply_backwards;
    g.give(0, product(g.output(0), bv));
    g.give(1, product(g.output(0), av));
  });
  return y;
}

// y = a + b: hands one gradient tensor to both inputs.
Variable add(const Variable& a, const Variable& b) {
  Variable y(a.value().clone());
  y.value().add_from(b.value());
  record("add", {a, b}, {&y}, [](Gradients& g) {
    g.give(0, g.output(0));
    g.give(1, g.output(0));
  });
  return y;
}

Variable scalar(float x, Leaf leaf) {
  return Variable(Tensor::from<float>({1}, std::vector<float>{x}), leaf);
}

TEST(Tape, SharedGradientTensorsDoNotAlias) {
  const Variable a = scalar(2, Leaf::input), b = scalar(3, Leaf::input);
  const Variable s = add(a, b);                  // 5
  const Variable root = add(multiply(s, a), s);  // s a + s = (a + b)(a + 1)
  backward(root);
  EXPECT_EQ(a.grad().item(), 2 + 3 + 2 + 1);  // (a + 1) + (a + b)
  EXPECT_EQ(b.grad().item(), 3);              // a + 1
}

TEST(Tape, DiamondRunsEachNodeOnce) {
  multiply_backwards = 0;
  const Variable a = scalar(3, Leaf::input);
  const Variable square = multiply(a, a);
  backward(multiply(square, square));
  EXPECT_EQ(a.grad().item(), 4 * 27);
  EXPECT_EQ(multiply_backwards, 2);
}

TEST(Tape, ParametersAccumulateOverBackwards) {
  const Variable w = scalar(3, Leaf::parameter);
  backward(multiply(w, scalar(5, Leaf::constant)));
  const Tensor buffer = w.grad();
  backward(multiply(w, scalar(7, Leaf::constant)));
  EXPECT_EQ(w.grad().item(), 12);
  EXPECT_TRUE(buffer.shares_storage_with(w.grad()));
}

TEST(Tape, ReadyHookFiresOnceAfterTheLastReader) {
  const Variable w = scalar(3, Leaf::parameter);
  std::vector<double> seen;
  w.set_on_ready([&] { seen.push_back(w.grad().item()); });
  const Variable x = multiply(w, scalar(2, Leaf::constant));
  backward(multiply(multiply(x, w), w));  // 2 w^3
  EXPECT_EQ(seen, std::vector<double>{6 * 9});
}

TEST(Tape, ForwardPassesMayAddToAParametersBuffer) {
  const Variable w(Tensor::full({1}, DType::bf16, 3), Leaf::parameter);
  const Tensor buffer = gradient_buffer(w);
  EXPECT_EQ(buffer.dtype(), DType::f32);
  EXPECT_EQ(buffer.item(), 0);
  buffer.add_from(Tensor::full({1}, DType::f32, 5));
  EXPECT_EQ(w.grad().item(), 5);
  EXPECT_TRUE(gradient_buffer(w).shares_storage_with(buffer));
  EXPECT_THROW(gradient_buffer(scalar(1, Leaf::input)), Error);
  const Variable v = scalar(3, Leaf::parameter);
  EXPECT_THROW(gradient_buffer(multiply(v, v)), Error);
}

TEST(Tape, ConsumedRecordIsRefused) {
  const Variable w = scalar(3, Leaf::parameter);
  const Variable y = multiply(w, w);
  backward(y);
  EXPECT_THROW(backward(y), Error);
}

TEST(Tape, NoGradRecordsNothing) {
  const Variable w = scalar(3, Leaf::parameter);
  const NoGrad no_grad;
  EXPECT_FALSE(multiply(w, w).needs_grad());
}

TEST(Tape, LongChainsNeedNoRecursion) {
  const Variable w = scalar(1, Leaf::parameter);
  Variable x = w;
  for (int i = 0; i < 200000; ++i) x = add(x, w);
  backward(x);
  EXPECT_EQ(w.grad().item(), 200001);
}

TEST(Recompute, EqualsPlainAndFiresHooksOnce) {
  auto run = [](bool again) {
    const Variable w = scalar(3, Leaf::parameter), x = scalar(2, Leaf::input);
    int fired = 0;
    double at_fire = 0;
    w.set_on_ready([&] {
      ++fired;
      at_fire = w.grad().item();
    });
    const Segment segment = [&](const std::vector<Variable>& in) {
      const Variable y = multiply(in[0], w);
      return std::vector<Variable>{multiply(y, in[1]), y};
    };
    const Variable first = multiply(x, w);
    const std::vector<Variable> out = again ? recompute(segment, {first, x}) : segment({first, x});
    backward(add(multiply(out[0], w), out[1]));
    EXPECT_EQ(fired, 1);
    EXPECT_EQ(at_fire, w.grad().item());
    return std::vector<double>{w.grad().item(), x.grad().item()};
  };
  EXPECT_EQ(run(true), run(false));
}

TEST(Recompute, RunsTheSegmentTwice) {
  int runs = 0;
  const Variable x = scalar(2, Leaf::input);
  const Segment segment = [&](const std::vector<Variable>& in) {
    ++runs;
    return std::vector<Variable>{multiply(in[0], in[0])};
  };
  const Variable y = recompute(segment, {x})[0];
  EXPECT_EQ(runs, 1);
  backward(y);
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(x.grad().item(), 4);
}

}  // namespace
}  // namespace t6
