#include "ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "ops/attention_backend.h"
#include "support/device.h"
#include "support/op_check.h"
#include "support/relative_error.h"
#include "support/threads.h"

namespace t6 {
namespace {

using Values = std::vector<double>;
using test::relative_error;

struct Sizes {
  int64_t batch = 1, queries = 1, heads = 1, groups = 1, qk = 8, v = 8, keys = 0, offset = 0;

  int64_t key_rows() const { return keys > 0 ? keys : queries; }
  Shape q_shape() const { return {batch, queries, heads, qk}; }
  Shape k_shape() const { return {batch, key_rows(), groups, qk}; }
  Shape v_shape() const { return {batch, key_rows(), groups, v}; }
};

// Softmax over the keys each query sees, in plain loops.
Values reference(const Sizes& s, double scale, const Values& q, const Values& k, const Values& v) {
  Values o(static_cast<size_t>(s.batch * s.queries * s.heads * s.v));
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t t = 0; t < s.queries; ++t) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t g = h / (s.heads / s.groups), seen = s.offset + t + 1;
        Values p(static_cast<size_t>(seen));
        double max = -INFINITY, sum = 0;
        for (int64_t j = 0; j < seen; ++j) {
          for (int64_t d = 0; d < s.qk; ++d) {
            p[j] += scale * q[((b * s.queries + t) * s.heads + h) * s.qk + d] *
                    k[((b * s.key_rows() + j) * s.groups + g) * s.qk + d];
          }
          max = std::max(max, p[j]);
        }
        for (double& x : p) sum += x = std::exp(x - max);
        for (int64_t j = 0; j < seen; ++j) {
          for (int64_t d = 0; d < s.v; ++d) {
            o[((b * s.queries + t) * s.heads + h) * s.v + d] +=
                p[j] / sum * v[((b * s.key_rows() + j) * s.groups + g) * s.v + d];
          }
        }
      }
    }
  }
  return o;
}

Values random_values(int64_t count, uint64_t stream, double spread = 1.0) {
  const Philox rng(7, RngPurpose::test, stream);
  Values values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    const float value = static_cast<float>(spread * (2 * rng.uniform(i) - 1));
    values[i] = static_cast<double>(static_cast<float>(bfloat16(value)));
  }
  return values;
}

struct Pass {
  Values o, dq, dk, dv;
};

// f64 is for the CPU alone.
Device device_for(DType dtype) {
  return dtype == DType::f64 ? kCpu : test::test_device();
}
Tensor make(const Shape& shape, const Values& values, DType dtype) {
  return Tensor::from<double>(shape, values).to(dtype).to(device_for(dtype));
}

// Forward and backward with a fixed cotangent.
Pass run(const Sizes& s, DType dtype, double spread = 1.0) {
  auto leaf = [&](const Shape& shape, uint64_t stream) {
    return Variable(make(shape, random_values(shape.numel(), stream, spread), dtype), Leaf::input);
  };
  const Variable q = leaf(s.q_shape(), 0), k = leaf(s.k_shape(), 1), v = leaf(s.v_shape(), 2);
  const Variable o = attention(q, k, v, 1 / std::sqrt(static_cast<double>(s.qk)));
  Variable root(Tensor::full({1}, DType::f64, 0.0));
  record("weigh", {o}, {&root},
         [&](Gradients& g) { g.give(0, make(o.shape(), random_values(o.value().numel(), 3), dtype)); });
  backward(root);
  return {o.value().to_doubles(), q.grad().to_doubles(), k.grad().to_doubles(), v.grad().to_doubles()};
}

void check(const Sizes& s) {
  const double scale = 1 / std::sqrt(static_cast<double>(s.qk));
  test::op_check(
      {.name = "attention",
       .inputs = {{.shape = s.q_shape(), .low = -2, .high = 2},
                  {.shape = s.k_shape(), .low = -2, .high = 2},
                  {.shape = s.v_shape()}},
       .call = [=](const auto& in, DType) -> std::vector<Variable> { return {attention(in[0], in[1], in[2], scale)}; },
       .reference = [=](const auto& in) -> std::vector<Values> { return {reference(s, scale, in[0], in[1], in[2])}; }});
}

TEST(Attention, FewTokens) {
  check({.batch = 2, .queries = 5, .heads = 4, .groups = 2, .qk = 6, .v = 3});
}
TEST(Attention, OneTile) {
  check({.batch = 2, .queries = 17, .heads = 3, .groups = 3});
}
TEST(Attention, GroupedHeads) {
  check({.batch = 1, .queries = 11, .heads = 6, .groups = 2, .qk = 4, .v = 4});
}
TEST(Attention, OneGroupOfSevenHeads) {
  check({.batch = 1, .queries = 9, .heads = 7, .groups = 1, .qk = 4, .v = 4});
}
TEST(Attention, WidthsOfKeysAndValuesDiffer) {
  check({.batch = 1, .queries = 13, .heads = 2, .groups = 2, .qk = 12, .v = 5});
}

// Gradients for cotangents w of o, in plain loops: q, k, v.
std::vector<Values> reference_gradients(const Sizes& s, double scale, const Values& q, const Values& k, const Values& v,
                                        const Values& w) {
  std::vector<Values> grads{Values(q.size()), Values(k.size()), Values(v.size())};
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t t = 0; t < s.queries; ++t) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t g = h / (s.heads / s.groups), at = (b * s.queries + t) * s.heads + h;
        Values p(static_cast<size_t>(t + 1)), dp(p.size());
        double sum = 0, mean = 0;
        for (int64_t j = 0; j <= t; ++j) {
          const int64_t key = (b * s.queries + j) * s.groups + g;
          for (int64_t d = 0; d < s.qk; ++d) p[j] += scale * q[at * s.qk + d] * k[key * s.qk + d];
          for (int64_t d = 0; d < s.v; ++d) dp[j] += w[at * s.v + d] * v[key * s.v + d];
          sum += p[j] = std::exp(p[j]);
          mean += p[j] * dp[j];
        }
        for (int64_t j = 0; j <= t; ++j) {
          const int64_t key = (b * s.queries + j) * s.groups + g;
          const double ds = scale * p[j] / sum * (dp[j] - mean / sum);
          for (int64_t d = 0; d < s.qk; ++d) {
            grads[0][at * s.qk + d] += ds * k[key * s.qk + d];
            grads[1][key * s.qk + d] += ds * q[at * s.qk + d];
          }
          for (int64_t d = 0; d < s.v; ++d) grads[2][key * s.v + d] += p[j] / sum * w[at * s.v + d];
        }
      }
    }
  }
  return grads;
}

// Several tiles and key blocks, against plain loops.
void check_precisions(const Sizes& s, double f32_bound = 3e-6, double bf16_bound = 1.5e-2) {
  const Pass exact = run(s, DType::f64);
  const double scale = 1 / std::sqrt(static_cast<double>(s.qk));
  const Values q = random_values(s.q_shape().numel(), 0), k = random_values(s.k_shape().numel(), 1),
               v = random_values(s.v_shape().numel(), 2), w = random_values(static_cast<int64_t>(exact.o.size()), 3);
  EXPECT_LE(relative_error(exact.o, reference(s, scale, q, k, v)), 1e-13);
  const std::vector<Values> grads = reference_gradients(s, scale, q, k, v, w);
  EXPECT_LE(relative_error(exact.dq, grads[0]), 1e-12);
  EXPECT_LE(relative_error(exact.dk, grads[1]), 1e-12);
  EXPECT_LE(relative_error(exact.dv, grads[2]), 1e-12);
  for (const auto& [dtype, bound] : {std::pair(DType::f32, f32_bound), std::pair(DType::bf16, bf16_bound)}) {
    const Pass got = run(s, dtype);
    EXPECT_LE(relative_error(got.o, exact.o), bound) << name_of(dtype);
    EXPECT_LE(relative_error(got.dq, exact.dq), bound) << name_of(dtype);
    EXPECT_LE(relative_error(got.dk, exact.dk), bound) << name_of(dtype);
    EXPECT_LE(relative_error(got.dv, exact.dv), bound) << name_of(dtype);
  }
}

TEST(Attention, SeveralTiles) {
  check_precisions({.batch = 2, .queries = 130, .heads = 3, .groups = 3, .qk = 16, .v = 16});
}
TEST(Attention, SeveralKeyBlocksAndGroups) {
  check_precisions({.batch = 1, .queries = 601, .heads = 4, .groups = 2, .qk = 24, .v = 16});
}
TEST(Attention, MoreGroupsThanUnits) {
  check_precisions({.batch = 33, .queries = 20, .heads = 8, .groups = 4, .qk = 8, .v = 8});
}

// Every width of tile: 5 and 40 are no multiples of 16 bytes and of a tile's columns, above 128 tiles are lower.
TEST(Attention, WideHeads) {
  for (const auto& [qk, v] : {std::pair(64, 64), {40, 24}, {21, 5}, {96, 64}, {128, 128}, {64, 136}, {256, 250}}) {
    check_precisions({.batch = 1, .queries = 70, .heads = 2, .groups = 1, .qk = qk, .v = v});
  }
}

TEST(Attention, IsCausal) {
  const Sizes s{.batch = 1, .queries = 150, .heads = 2, .groups = 1, .qk = 8, .v = 8};
  const int64_t changed = 70;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    auto out = [&](double shift) {
      Values k = random_values(s.k_shape().numel(), 1), v = random_values(s.v_shape().numel(), 2);
      for (int64_t d = 0; d < 8; ++d) k[changed * 8 + d] += shift, v[changed * 8 + d] -= shift;
      const Variable q(make(s.q_shape(), random_values(s.q_shape().numel(), 0), dtype));
      return attention(q, Variable(make(s.k_shape(), k, dtype)), Variable(make(s.v_shape(), v, dtype)), 0.3)
          .value()
          .to_doubles();
    };
    const Values a = out(0), b = out(1);
    const int64_t row = 2 * 8;
    EXPECT_TRUE(std::equal(a.begin(), a.begin() + changed * row, b.begin()));
    EXPECT_FALSE(std::equal(a.begin() + changed * row, a.begin() + (changed + 1) * row, b.begin() + changed * row));
  }
}

TEST(Attention, OneTokenPassesItsValueThrough) {
  const Sizes s{.batch = 2, .queries = 1, .heads = 3, .groups = 3};
  for (const auto& [dtype, bound] :
       {std::pair(DType::f64, 1e-14), std::pair(DType::f32, 1e-6), std::pair(DType::bf16, 1e-6)}) {
    const Pass got = run(s, dtype);
    EXPECT_LE(relative_error(got.o, random_values(s.v_shape().numel(), 2)), bound);
    EXPECT_LE(relative_error(got.dv, random_values(s.v_shape().numel(), 3)), bound);
    for (const double x : got.dq) EXPECT_NEAR(x, 0, 1e-6);
    for (const double x : got.dk) EXPECT_NEAR(x, 0, 1e-6);
  }
}

TEST(Attention, LargeScoresStayFinite) {
  const Pass got = run({.batch = 1, .queries = 40, .heads = 1, .groups = 1, .qk = 8, .v = 8}, DType::f32, 60.0);
  for (const Values* values : {&got.o, &got.dq, &got.dk, &got.dv}) {
    for (const double x : *values) EXPECT_TRUE(std::isfinite(x));
  }
  const Pass exact = run({.batch = 1, .queries = 40, .heads = 1, .groups = 1, .qk = 8, .v = 8}, DType::f64, 60.0);
  EXPECT_LE(relative_error(got.o, exact.o), 1e-4);
}

TEST(Attention, DoesNotDependOnThreadCount) {
  const AttentionBackend before = attention_backend();
  set_attention_backend({before.kernels, true});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    // With one thread a head is one unit, with five its tiles are shared out.
    const Sizes s{.batch = 1, .queries = 200, .heads = 6, .groups = 2, .qk = 16, .v = 8};
    auto all = [&] {
      const Pass r = run(s, dtype);
      return std::vector<Values>{r.o, r.dq, r.dk, r.dv};
    };
    const auto one = test::with_threads(1, all);
    EXPECT_EQ(one, test::with_threads(2, all));
    EXPECT_EQ(one, test::with_threads(5, all));
  }
  set_attention_backend(before);
}

TEST(AttentionDecode, SeesTheCacheUpToItsOwnRow) {
  for (const int64_t queries : {1, 3, 70}) {
    const Sizes s{.batch = 2, .queries = queries, .heads = 6, .groups = 2, .qk = 8, .v = 5, .keys = 150, .offset = 60};
    const Values q = random_values(s.q_shape().numel(), 0), k = random_values(s.k_shape().numel(), 1),
                 v = random_values(s.v_shape().numel(), 2);
    const Values expected = reference(s, 0.3, q, k, v);
    for (const auto& [dtype, bound] :
         {std::pair(DType::f64, 1e-13), std::pair(DType::f32, 2e-6), std::pair(DType::bf16, 1e-2)}) {
      Tensor kt = Tensor::from<double>(s.k_shape(), k), vt = Tensor::from<double>(s.v_shape(), v);
      for (int64_t b = 0; b < 2; ++b) {  // rows that no query sees may hold anything
        const int64_t seen = s.offset + queries;
        kt.slice((b * 150 + seen) * 16, {(150 - seen) * 16}).fill(NAN);
        vt.slice((b * 150 + seen) * 10, {(150 - seen) * 10}).fill(NAN);
      }
      const Device device = device_for(dtype);
      const Tensor o =
          attention_decode(make(s.q_shape(), q, dtype), kt.to(dtype).to(device), vt.to(dtype).to(device), 60, 0.3);
      EXPECT_LE(relative_error(o.to_doubles(), expected), bound) << queries << " " << name_of(dtype);
    }
  }
}

// Every way of sharing keys, widths of many or few registers and parts of one, and caches of many splits.
TEST(AttentionDecode, AgreesWithLoopsForEveryGrouping) {
  struct Heads {
    int64_t heads, groups, qk, v;
  };
  for (const Heads& h : {Heads{12, 12, 64, 64}, Heads{3, 1, 7, 9}, Heads{23, 1, 64, 64}, Heads{22, 2, 64, 64},
                         Heads{13, 1, 288, 288}, Heads{70, 1, 17, 5}, Heads{8, 2, 33, 40}}) {
    for (const int64_t offset : {0, 64, 2100}) {
      const Sizes s{.batch = 2,
                    .queries = 3,
                    .heads = h.heads,
                    .groups = h.groups,
                    .qk = h.qk,
                    .v = h.v,
                    .keys = offset + 8,
                    .offset = offset};
      const Values q = random_values(s.q_shape().numel(), 0), k = random_values(s.k_shape().numel(), 1),
                   v = random_values(s.v_shape().numel(), 2);
      const Values expected = reference(s, 0.2, q, k, v);
      for (const auto& [dtype, bound] :
           {std::pair(DType::f64, 1e-13), std::pair(DType::f32, 3e-6), std::pair(DType::bf16, 1.5e-2)}) {
        if (dtype == DType::f64 && test::on_cuda()) continue;
        const auto there = [&](const Shape& shape, const Values& values) {
          return Tensor::from<double>(shape, values).to(dtype).to(test::test_device());
        };
        memory::set_poison(true);
        const Tensor o =
            attention_decode(there(s.q_shape(), q), there(s.k_shape(), k), there(s.v_shape(), v), offset, 0.2);
        EXPECT_NO_THROW(memory::check_guards());
        memory::set_poison(false);
        EXPECT_LE(relative_error(o.to_doubles(), expected), bound)
            << h.heads << "/" << h.groups << " " << h.qk << " " << offset << " " << name_of(dtype);
      }
    }
  }
}

// As latent attention decodes: one tensor is keys and values, wider than a head of any other kind; also for a prompt.
TEST(AttentionDecode, OneTensorForKeysAndValues) {
  for (const int64_t queries : {1, 12}) {
    const Sizes s{
        .batch = 2, .queries = queries, .heads = 18, .groups = 1, .qk = 288, .v = 288, .keys = 190, .offset = 170};
    const Values q = random_values(s.q_shape().numel(), 0);
    Values k = random_values(s.k_shape().numel(), 1);
    const Values expected = reference(s, 0.1, q, k, k);
    for (int64_t b = 0; b < s.batch; ++b) {  // rows that no query sees
      std::fill(k.begin() + (b * s.keys + s.offset + queries) * s.qk, k.begin() + (b + 1) * s.keys * s.qk, NAN);
    }
    for (const auto& [dtype, bound] : {std::pair(DType::f32, 3e-6), std::pair(DType::bf16, 1.5e-2)}) {
      const Tensor rows = Tensor::from<double>(s.k_shape(), k).to(dtype).to(test::test_device());
      const Tensor o = attention_decode(Tensor::from<double>(s.q_shape(), q).to(dtype).to(test::test_device()), rows,
                                        rows, s.offset, 0.1);
      EXPECT_LE(relative_error(o.to_doubles(), expected), bound) << queries << " " << name_of(dtype);
    }
  }
}

TEST(AttentionDecode, BitsDependOnTheirSequenceAlone) {
  if (test::on_cuda()) GTEST_SKIP() << "of the CPU's kernels";
  for (const int64_t groups : {12, 1}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Sizes s{
          .batch = 3, .queries = 1, .heads = 12, .groups = groups, .qk = 64, .v = 64, .keys = 900, .offset = 880};
      const Tensor q = Tensor::from<double>(s.q_shape(), random_values(s.q_shape().numel(), 0)).to(dtype);
      const Tensor k = Tensor::from<double>(s.k_shape(), random_values(s.k_shape().numel(), 1)).to(dtype);
      const Tensor v = Tensor::from<double>(s.v_shape(), random_values(s.v_shape().numel(), 2)).to(dtype);
      const auto all = [&] { return attention_decode(q, k, v, s.offset, 0.125).to_doubles(); };
      const auto last = [&] {
        return attention_decode(q.rows(2, 1), k.rows(2, 1), v.rows(2, 1), s.offset, 0.125).to_doubles();
      };
      const Values expected = test::with_threads(1, all);
      EXPECT_EQ(test::with_threads(5, all), expected);
      EXPECT_EQ(test::with_threads(2, last), Values(expected.end() - 12 * 64, expected.end()));
    }
  }
}

TEST(Attention, RejectsShapesThatDoNotFit) {
  auto zeros = [](const Shape& shape) { return Variable(Tensor::zeros(shape, DType::f32)); };
  EXPECT_THROW(attention(zeros({1, 4, 3, 8}), zeros({1, 4, 2, 8}), zeros({1, 4, 2, 8}), 1.0), Error);
  EXPECT_THROW(attention(zeros({1, 4, 2, 8}), zeros({1, 5, 2, 8}), zeros({1, 5, 2, 8}), 1.0), Error);
  EXPECT_THROW(attention(zeros({1, 4, 2, 8}), zeros({1, 4, 2, 6}), zeros({1, 4, 2, 8}), 1.0), Error);
  EXPECT_THROW(
      attention_decode(zeros({1, 4, 2, 8}).value(), zeros({1, 9, 2, 8}).value(), zeros({1, 9, 2, 8}).value(), 6, 1.0),
      Error);
}

}  // namespace
}  // namespace t6
