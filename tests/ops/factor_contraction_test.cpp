#include "ops/factor_contraction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "support/device.h"
#include "support/op_check.h"
#include "support/rope_reference.h"
#include "support/threads.h"

namespace t6 {
namespace {

using Values = std::vector<double>;
constexpr double kTheta = 100.0;

// On the CPU in f64; a GPU computes in f32.
Tensor exact(const Shape& shape, const Values& values) {
  return Tensor::from<double>(shape, values).to(test::on_cuda() ? DType::f32 : DType::f64).to(test::test_device());
}
double exact_bound() {
  return test::on_cuda() ? 1e-6 : 1e-14;
}

RopeTable table_for(const Tensor& x, int64_t positions, int64_t width) {
  return make_rope_table(positions, width, kTheta, false, accumulate_dtype(x.dtype())).to(x.device());
}

// [H, D] of one part of one packed row, in plain loops.
Values contract_reference(const double* f, const FactorLayout& layout, const FactorPart& part, int64_t position) {
  const int64_t heads = layout.heads, width = layout.head_dim;
  Values y(static_cast<size_t>(heads * width));
  if (part.rank == 0) {
    std::copy_n(f + part.a, heads * width, y.data());
    for (int64_t h = 0; h < heads && part.rope; ++h) test::rotate_reference(&y[h * width], width, position, kTheta);
    return y;
  }
  Values b(f + part.b, f + part.b + part.rank * width);
  for (int64_t r = 0; r < part.rank && part.rope; ++r) test::rotate_reference(&b[r * width], width, position, kTheta);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t r = 0; r < part.rank; ++r) {
      for (int64_t d = 0; d < width; ++d) {
        y[h * width + d] += f[part.a + h * part.rank + r] * b[r * width + d] / static_cast<double>(part.rank);
      }
    }
  }
  return y;
}

std::vector<Values> reference(const Values& f, const FactorLayout& layout, int64_t window, int64_t offset) {
  std::vector<Values> out(3);
  for (int64_t row = 0; row < static_cast<int64_t>(f.size()) / layout.width; ++row) {
    const FactorPart* parts[] = {&layout.q, &layout.k, &layout.v};
    for (size_t i = 0; i < 3; ++i) {
      const Values y = contract_reference(&f[row * layout.width], layout, *parts[i], offset + row % window);
      out[i].insert(out[i].end(), y.begin(), y.end());
    }
  }
  return out;
}

void check(int64_t batch, int64_t window, const FactorLayout& layout, int64_t offset = 0, bool differences = true) {
  test::op_check(
      {.name = "factor_contraction",
       .inputs = {{.shape = {batch, window, layout.width}}},
       .call = [=](const auto& in, DType) -> std::vector<Variable> {
         const RopeTable table = table_for(in[0].value(), offset + window, layout.head_dim);
         Qkv out = factor_contraction(in[0], layout, table, offset);
         return {out.q, out.k, out.v};
       },
       .reference = [=](const auto& in) -> std::vector<Values> { return reference(in[0], layout, window, offset); },
       .differences = differences});
}

TEST(FactorContraction, RanksOfThePaper) {
  check(2, 3, pack_factors(7, 8, 6, 2, 2));
}

TEST(FactorContraction, EveryRankToSix) {
  check(1, 2, pack_factors(3, 8, 1, 2, 3));
  check(1, 2, pack_factors(5, 6, 4, 5, 6));
}

TEST(FactorContraction, RanksBeyondOneBlock) {
  check(1, 2, pack_factors(2, 16, 17, 8, 9));
}

TEST(FactorContraction, WholeRegistersAndRest) {
  check(1, 2, pack_factors(3, 32, 3, 2, 1));
  check(1, 2, pack_factors(2, 34, 2, 2, 2));
}

TEST(FactorContraction, PaddedSegmentsAndLaterPositions) {
  const FactorLayout layout = pack_factors(7, 8, 3, 2, 1, 8, 128);
  EXPECT_EQ(layout.q.a, 0);
  EXPECT_EQ(layout.k.a, 24);
  EXPECT_EQ(layout.v.a, 40);
  EXPECT_EQ(layout.q.b, 48);
  EXPECT_EQ(layout.width, 128);
  check(2, 2, layout, 3);
}

// Columns in whole packs, as models lay them out, where a GPU has kernels of their own.
TEST(FactorContraction, WholePacks) {
  check(1, 2, pack_factors(5, 16, 3, 1, 2, 8, 8), 1);
  check(2, 1, pack_factors(2, 16, 0, 2, 1, 8, 16), 5);
}

TEST(FactorContraction, SizesOfModels) {
  check(1, 3, pack_factors(34, 64, 6, 2, 2, 8, 128), 7, false);  // tpa small
  check(2, 1, pack_factors(22, 64, 0, 2, 2, 8, 128), 3, false);  // tpa_kvonly small
  check(1, 1, pack_factors(78, 64, 6, 2, 2, 8, 128), 1, false);  // tpa xl
  check(1, 2, pack_factors(16, 128, 16, 1, 1, 8, 128), 2, false);
}

TEST(FactorContraction, SegmentsInAnyOrder) {
  FactorLayout layout = pack_factors(3, 4, 2, 2, 2);
  std::swap(layout.q.b, layout.v.b);
  std::swap(layout.k.a, layout.v.a);
  check(1, 3, layout);
}

TEST(FactorContraction, DenseQuery) {
  check(2, 3, pack_factors(7, 8, 0, 2, 3, 4, 16), 2);
}

TEST(FactorContraction, MultiHeadAttentionIsTheCaseOfIdentityFactors) {
  // R = H, A = H identity: head h is B[h].
  const int64_t heads = 3, width = 4;
  const FactorLayout layout = pack_factors(heads, width, heads, heads, heads);
  Values f(static_cast<size_t>(layout.width)), dense;
  for (size_t i = 0; i < f.size(); ++i) f[i] = std::sin(static_cast<double>(i));
  for (const FactorPart* part : {&layout.q, &layout.k, &layout.v}) {
    for (int64_t i = 0; i < heads * heads; ++i) f[part->a + i] = i % (heads + 1) == 0 ? heads : 0.0;
    dense.insert(dense.end(), f.begin() + part->b, f.begin() + part->b + heads * width);
  }
  const Variable factors(exact({1, 1, layout.width}, f));
  const RopeTable table = table_for(factors.value(), 6, width);
  const Qkv tpa = factor_contraction(factors, layout, table, 5);
  const Qkv mha = qkv_rope(Variable(exact({1, 1, 3 * heads * width}, dense)), heads, heads, table, 5);
  for (const auto& [a, b] : {std::pair(tpa.q, mha.q), std::pair(tpa.k, mha.k), std::pair(tpa.v, mha.v)}) {
    const Values x = a.value().to_doubles(), y = b.value().to_doubles();
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], exact_bound());
  }
}

TEST(FactorContraction, UnusedOutputsGiveNoGradient) {
  const FactorLayout layout = pack_factors(2, 4, 2, 1, 1);
  const Device device = test::test_device();
  const Variable f(Tensor::full({1, 1, layout.width}, DType::f32, 1.0, device), Leaf::input);
  const Qkv out = factor_contraction(f, layout, table_for(f.value(), 1, 4));
  Variable root(Tensor::full({1}, DType::f32, 0.0));
  record("sum", {out.v}, {&root}, [=](Gradients& g) {
    g.give(0, Tensor::full({1, 1, 2, 4}, DType::f32, 1.0, device));
  });
  backward(root);
  Values expected(static_cast<size_t>(layout.width));
  for (int64_t i = 0; i < 2; ++i) expected[layout.v.a + i] = 4.0;
  for (int64_t i = 0; i < 4; ++i) expected[layout.v.b + i] = 2.0;
  EXPECT_EQ(f.grad().to_doubles(), expected);
}

TEST(FactorContraction, DoesNotDependOnThreadCount) {
  const FactorLayout layout = pack_factors(7, 8, 6, 2, 2, 8, 64);
  Values values(static_cast<size_t>(2 * 65 * layout.width));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i));
  auto run = [&] {
    const Tensor x = Tensor::from<double>({2, 65, layout.width}, values).to(DType::f32);
    const Variable f(x.to(test::test_device()), Leaf::input);
    const Qkv out = factor_contraction(f, layout, table_for(f.value(), 65, 8));
    Variable root(Tensor::full({1}, DType::f32, 0.0));
    record("square", {out.q, out.k, out.v}, {&root}, [&](Gradients& g) {
      g.give(0, out.q.value());
      g.give(1, out.k.value());
      g.give(2, out.v.value());
    });
    backward(root);
    return std::pair(out.k.value().to_doubles(), f.grad().to_doubles());
  };
  EXPECT_EQ(test::with_threads(1, run), test::with_threads(3, run));
}

TEST(FactorContraction, RejectsOverlappingSegments) {
  FactorLayout layout = pack_factors(3, 4, 2, 2, 2);
  layout.v.b -= 1;
  const Variable f(Tensor::zeros({1, 1, layout.width}, DType::f32));
  EXPECT_THROW(factor_contraction(f, layout, table_for(f.value(), 1, 4)), Error);
  layout.v.b += 2;
  EXPECT_THROW(factor_contraction(f, layout, table_for(f.value(), 1, 4)), Error);
}

TEST(RotateFactors, RowsContractToTheSameKeysAndValues) {
  const int64_t heads = 5, width = 6, window = 3;
  const FactorLayout layout = pack_factors(heads, width, 2, 3, 1, 4);
  Values values(static_cast<size_t>(2 * window * layout.width));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i));
  const Tensor f = exact({2, window, layout.width}, values);
  const RopeTable table = table_for(f, 9, width);
  const Qkv out = factor_contraction(Variable(f), layout, table, 4);
  const FactorRows rows = rotate_factors(f, layout, table, 4);
  EXPECT_EQ(rows.a_k.numel() + rows.b_k.numel() + rows.a_v.numel() + rows.b_v.numel(),
            2 * window * (3 + 1) * (heads + width));
  auto expect = [&](const Tensor& a, const Tensor& b, const Variable& expected) {
    const Values av = a.to_doubles(), bv = b.to_doubles(), y = expected.value().to_doubles();
    const int64_t rank = a.dim(3);
    for (int64_t i = 0; i < 2 * window * heads * width; ++i) {
      const int64_t d = i % width, h = i / width % heads, row = i / width / heads;
      double sum = 0;
      for (int64_t r = 0; r < rank; ++r) {
        sum += av[(row * heads + h) * rank + r] * bv[(row * rank + r) * width + d] / static_cast<double>(rank);
      }
      EXPECT_NEAR(sum, y[i], exact_bound());
    }
  };
  expect(rows.a_k, rows.b_k, out.k);
  expect(rows.a_v, rows.b_v, out.v);
  EXPECT_EQ(contract_query(f, layout, table, 4).to_doubles(), out.q.value().to_doubles());
}

}  // namespace
}  // namespace t6
