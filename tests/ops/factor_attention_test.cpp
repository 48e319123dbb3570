#include "ops/factor_attention.h"

#include <gtest/gtest.h>

#include "ops/attention.h"
#include "support/device.h"
#include "support/random_tensor.h"

namespace t6 {
namespace {

struct Case {
  FactorLayout layout;
  int64_t batch, tokens, offset;
};

// Dense queries and factors, odd and padded widths, a window that starts later.
std::vector<Case> cases() {
  return {{pack_factors(3, 4, 2, 1, 3), 2, 5, 0},
          {pack_factors(5, 8, 6, 2, 2, 8, 128), 1, 9, 3},
          {pack_factors(4, 16, 0, 2, 2, 8, 64), 2, 7, 0}};
}

size_t in_use() {
  return test::on_cuda() ? gpu::memory().in_use : memory::usage().in_use;
}

struct Outcome {
  std::vector<double> o, df;
  size_t kept = 0;  // bytes from forward to backward
};

Outcome run(const Case& c, DType dtype, bool again) {
  const Device device = test::test_device();
  const FactorLayout& layout = c.layout;
  const RopeTable table =
      make_rope_table(c.offset + c.tokens, layout.head_dim, 100, false, accumulate_dtype(dtype)).to(device);
  const Shape shape{c.batch, c.tokens, layout.heads, layout.head_dim};
  const Tensor cotangent = test::random_tensor(shape, dtype, 2).to(device);
  const Variable f(test::random_tensor({c.batch, c.tokens, layout.width}, dtype, 1).to(device), Leaf::input);
  Outcome out;
  const size_t before = in_use();
  Variable o;
  if (again) {
    o = factor_attention(f, layout, table, 0.3, c.offset);
  } else {
    const Qkv qkv = factor_contraction(f, layout, table, c.offset);
    o = attention(qkv.q, qkv.k, qkv.v, 0.3);
  }
  out.kept = in_use() - before;
  out.o = o.value().to_doubles();
  Variable root(Tensor::full({1}, DType::f32, 0.0));
  record("dot", {o}, {&root}, [=](Gradients& g) { g.give(0, cotangent); });
  backward(root);
  out.df = f.grad().to_doubles();
  return out;
}

TEST(FactorAttention, EqualsContractionAndAttentionAndKeepsNoQueriesKeysOrValues) {
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Outcome plain = run(c, dtype, false), again = run(c, dtype, true);
      EXPECT_EQ(again.o, plain.o) << name_of(dtype);
      EXPECT_EQ(again.df, plain.df) << name_of(dtype);
      const int64_t numbers = 3 * c.batch * c.tokens * c.layout.heads * c.layout.head_dim;
      EXPECT_EQ(plain.kept - again.kept, static_cast<size_t>(numbers) * size_of(dtype)) << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace t6
