#include "ops/rope.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/device.h"
#include "support/op_check.h"
#include "support/rope_reference.h"
#include "support/threads.h"

namespace t6 {
namespace {

using Values = std::vector<double>;
constexpr double kTheta = 100.0;  // low, so that every pair turns visibly within a few positions

RopeTable table_for(const Variable& x, int64_t positions, int64_t width) {
  return make_rope_table(positions, width, kTheta, false, accumulate_dtype(x.dtype())).to(x.device());
}

// On the CPU in f64; a GPU computes in f32.
Variable exact(const Shape& shape, const Values& values) {
  return Variable(
      Tensor::from<double>(shape, values).to(test::on_cuda() ? DType::f32 : DType::f64).to(test::test_device()));
}

TEST(RopeTable, HoldsCosAndSinOfTheAngles) {
  const RopeTable table = make_rope_table(1000, 64, 10000.0, false, DType::f64);
  EXPECT_EQ(table.positions(), 1000);
  EXPECT_EQ(table.width(), 64);
  const Values cos = table.cos.to_doubles(), sin = table.sin.to_doubles();
  EXPECT_DOUBLE_EQ(cos[0], 1.0);
  EXPECT_DOUBLE_EQ(sin[0], 0.0);
  EXPECT_NEAR(cos[999 * 32], std::cos(999.0), 1e-14);
  EXPECT_NEAR(sin[999 * 32 + 16], std::sin(9.99), 1e-13);  // 10000^(-32/64) = 0.01
}

TEST(RopeTable, RoundsToBf16WhenAsked) {
  const RopeTable exact = make_rope_table(300, 8, 10000.0, false, DType::f32);
  const RopeTable rounded = make_rope_table(300, 8, 10000.0, true, DType::f32);
  const Values a = exact.cos.to_doubles(), b = rounded.cos.to_doubles();
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(static_cast<float>(b[i]), static_cast<float>(bfloat16(static_cast<float>(b[i]))));
    largest = std::max(largest, std::abs(a[i] - b[i]));
  }
  EXPECT_GT(largest, 1e-4);
  EXPECT_LT(largest, 2.1e-3);
}

TEST(Rope, TurnsByMinusTheAngle) {
  const Variable x = exact({1, 2, 1, 2}, {1, 0, 1, 0});
  const RopeTable table = make_rope_table(2, 2, 10000.0, false, x.dtype()).to(x.device());
  const Values y = rope(x, table).value().to_doubles();
  const double bound = test::on_cuda() ? 1e-7 : 1e-15;
  EXPECT_NEAR(y[2], std::cos(1.0), bound);
  EXPECT_NEAR(y[3], -std::sin(1.0), bound);
}

TEST(Rope, Plain) {
  test::op_check(
      {.name = "rope",
       .inputs = {{.shape = {2, 5, 3, 6}}},
       .call = [](const auto& in, DType) -> std::vector<Variable> { return {rope(in[0], table_for(in[0], 9, 6), 4)}; },
       .reference = [](const auto& in) -> std::vector<Values> {
         Values y = in[0];
         for (int64_t row = 0; row < 10; ++row) {
           for (int64_t n = 0; n < 3; ++n) {
             test::rotate_reference(y.data() + (row * 3 + n) * 6, 6, 4 + row % 5, kTheta);
           }
         }
         return {y};
       }});
}

// Columns [begin, begin + count) of every row, each group of `width` turned when asked.
Values columns(const Values& x, int64_t rows, int64_t row_width, int64_t begin, int64_t count) {
  Values y;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < count; ++i) y.push_back(x[static_cast<size_t>(row * row_width + begin + i)]);
  }
  return y;
}

void rotate_all(Values& x, int64_t rows, int64_t window, int64_t offset, int64_t width) {
  const int64_t per_row = static_cast<int64_t>(x.size()) / rows;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < per_row; i += width) {
      test::rotate_reference(x.data() + row * per_row + i, width, offset + row % window, kTheta);
    }
  }
}

void check_qkv(int64_t batch, int64_t window, int64_t heads, int64_t kv_heads, int64_t width, int64_t pad,
               int64_t offset, bool differences = true) {
  const int64_t row = (heads + 2 * kv_heads) * width + pad, rows = batch * window;
  test::op_check({.name = "qkv_rope",
                  .inputs = {{.shape = {batch, window, row}}},
                  .call = [=](const auto& in, DType) -> std::vector<Variable> {
                    Qkv out = qkv_rope(in[0], heads, kv_heads, table_for(in[0], offset + window, width), offset);
                    return {out.q, out.k, out.v};
                  },
                  .reference = [=](const auto& in) -> std::vector<Values> {
                    Values q = columns(in[0], rows, row, 0, heads * width);
                    Values k = columns(in[0], rows, row, heads * width, kv_heads * width);
                    rotate_all(q, rows, window, offset, width);
                    rotate_all(k, rows, window, offset, width);
                    return {q, k, columns(in[0], rows, row, (heads + kv_heads) * width, kv_heads * width)};
                  },
                  .differences = differences});
}

TEST(QkvRope, AllHeads) {
  check_qkv(2, 17, 3, 3, 8, 0, 0);
}
TEST(QkvRope, GroupedHeadsPaddedAndLater) {
  check_qkv(1, 5, 7, 1, 8, 3, 6);
  check_qkv(2, 1, 4, 2, 34, 5, 0);
}

TEST(QkvRope, WholePacks) {
  check_qkv(1, 3, 9, 2, 16, 8, 2);
  check_qkv(2, 67, 5, 1, 16, 0, 1, false);
  check_qkv(1, 2, 6, 3, 16, 4, 0);  // rows of f32 in whole packs of 16 bytes, of bf16 not
}

TEST(QkvRope, RejectsPositionsBeyondTheTable) {
  const Variable packed(Tensor::zeros({1, 4, 24}, DType::f32));
  EXPECT_THROW(qkv_rope(packed, 1, 1, make_rope_table(5, 8, kTheta, false, DType::f32), 2), Error);
  EXPECT_THROW(qkv_rope(packed, 1, 1, make_rope_table(8, 8, kTheta, false, DType::f64), 2), Error);
  EXPECT_THROW(qkv_rope(packed, 2, 1, make_rope_table(8, 8, kTheta, false, DType::f32), 2), Error);
}

TEST(QkvRope, RejectsTablesOfAnotherDevice) {
  if (!test::on_cuda()) GTEST_SKIP() << "runs as cuda.ops.*";
  const Variable packed(Tensor::zeros({1, 4, 24}, DType::f32, test::test_device()));
  EXPECT_THROW(qkv_rope(packed, 1, 1, make_rope_table(5, 8, kTheta, false, DType::f32)), Error);
}

TEST(QkvRope, DoesNotDependOnThreadCount) {
  Values values(2 * 65 * 72);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i));
  const Variable x(Tensor::from<double>({2, 65, 72}, values).to(DType::f32).to(test::test_device()));
  const RopeTable table = table_for(x, 65, 8);
  auto keys = [&] { return qkv_rope(x, 5, 2, table).k.value().to_doubles(); };
  EXPECT_EQ(test::with_threads(1, keys), test::with_threads(3, keys));
}

TEST(SplitColumns, WithRest) {
  test::op_check({.name = "split_columns",
                  .inputs = {{.shape = {3, 2, 13}}},
                  .call = [](const auto& in, DType) -> std::vector<Variable> {
                    return split_columns(in[0], {5, 1, 4});
                  },
                  .reference = [](const auto& in) -> std::vector<Values> {
                    return {columns(in[0], 6, 13, 0, 5), columns(in[0], 6, 13, 5, 1), columns(in[0], 6, 13, 6, 4)};
                  }});
}

TEST(SplitColumns, UnusedPartHasZeroGradient) {
  const Device device = test::test_device();
  const Variable x(Tensor::full({2, 5}, DType::f32, 3.0, device), Leaf::input);
  const std::vector<Variable> parts = split_columns(x, {2, 3});
  Variable root(Tensor::full({1}, DType::f32, 0.0));
  record("sum", {parts[1]}, {&root}, [=](Gradients& g) { g.give(0, Tensor::full({2, 3}, DType::f32, 1.0, device)); });
  backward(root);
  EXPECT_EQ(x.grad().to_doubles(), (Values{0, 0, 1, 1, 1, 0, 0, 1, 1, 1}));
}

void check_mla(int64_t batch, int64_t window, int64_t heads, int64_t nope, int64_t rotary, int64_t v_width, int64_t pad,
               int64_t offset) {
  const int64_t rows = batch * window, full = nope + rotary, packed = nope + v_width;
  const int64_t q_row = heads * full + pad, kv_row = heads * packed + pad;
  test::op_check({.name = "mla_qkv",
                  .inputs = {{.shape = {batch, window, q_row}},
                             {.shape = {batch, window, kv_row}},
                             {.shape = {batch, window, rotary}}},
                  .call = [=](const auto& in, DType) -> std::vector<Variable> {
                    const RopeTable table = table_for(in[0], offset + window, rotary);
                    Qkv out = mla_qkv(in[0], in[1], in[2], {heads, nope, v_width}, table, offset);
                    return {out.q, out.k, out.v};
                  },
                  .reference = [=](const auto& in) -> std::vector<Values> {
                    Values q, k, v;
                    for (int64_t row = 0; row < rows; ++row) {
                      Values shared(in[2].begin() + row * rotary, in[2].begin() + (row + 1) * rotary);
                      test::rotate_reference(shared.data(), rotary, offset + row % window, kTheta);
                      for (int64_t h = 0; h < heads; ++h) {
                        const auto from_q = in[0].begin() + row * q_row + h * full;
                        const auto from_kv = in[1].begin() + row * kv_row + h * packed;
                        q.insert(q.end(), from_q, from_q + full);
                        test::rotate_reference(&q[q.size() - static_cast<size_t>(rotary)], rotary,
                                               offset + row % window, kTheta);
                        k.insert(k.end(), from_kv, from_kv + nope);
                        k.insert(k.end(), shared.begin(), shared.end());
                        v.insert(v.end(), from_kv + nope, from_kv + packed);
                      }
                    }
                    return {q, k, v};
                  }});
}

TEST(MlaQkv, ManyShapes) {
  check_mla(2, 7, 3, 8, 4, 8, 0, 0);
  check_mla(1, 5, 7, 6, 2, 3, 3, 4);
  check_mla(1, 3, 6, 16, 16, 8, 8, 1);
}

TEST(MlaKv, TakesRowsThatAreRotatedAlready) {
  Values kv(1 * 4 * 2 * 5), shared(1 * 4 * 4);
  for (size_t i = 0; i < kv.size(); ++i) kv[i] = std::sin(static_cast<double>(i));
  for (size_t i = 0; i < shared.size(); ++i) shared[i] = std::cos(static_cast<double>(i));
  const Variable kv_b = exact({1, 4, 10}, kv), k_rope = exact({1, 4, 4}, shared);
  const RopeTable table = table_for(kv_b, 9, 4);
  const Variable turned(rope(Variable(k_rope.value().view({1, 4, 1, 4})), table, 5).value().view({1, 4, 4}));
  const MlaKv now = mla_kv(kv_b, k_rope, {2, 3, 2}, &table, 5), before = mla_kv(kv_b, turned, {2, 3, 2}, nullptr);
  EXPECT_EQ(now.k.value().to_doubles(), before.k.value().to_doubles());
  EXPECT_EQ(now.v.value().to_doubles(), before.v.value().to_doubles());
}

}  // namespace
}  // namespace t6
