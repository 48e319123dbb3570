#include "ops/factor_decode.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "ops/attention.h"
#include "support/device.h"
#include "support/hdf5_reader.h"
#include "support/relative_error.h"
#include "support/threads.h"

namespace t6 {
namespace {

using Values = std::vector<double>;
using test::relative_error;

Values random_values(int64_t count, uint64_t stream) {
  const Philox rng(11, RngPurpose::test, stream);
  Values values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = 2 * rng.uniform(i) - 1;
  return values;
}

Tensor lengths_of(const std::vector<int32_t>& lengths) {
  return Tensor::from<int32_t>({static_cast<int64_t>(lengths.size())}, lengths);
}

// The test's device. It computes in f64 on the CPU alone.
Tensor there(const Tensor& x, DType dtype) {
  return x.to(dtype).to(test::test_device());
}
FactorRows there(const FactorRows& rows, DType dtype) {
  return {there(rows.a_k, dtype), there(rows.b_k, dtype), there(rows.a_v, dtype), there(rows.b_v, dtype)};
}
bool runs(DType dtype) {
  return dtype != DType::f64 || !test::on_cuda();
}
DType most_exact() {
  return test::on_cuda() ? DType::f32 : DType::f64;
}

// [B, rows, H, D] = (1/R) sum_r a[h, r] b[r], in plain loops.
Values materialise(const Values& a, const Values& b, int64_t rows, int64_t heads, int64_t rank, int64_t width) {
  Values y(static_cast<size_t>(rows * heads * width));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t r = 0; r < rank; ++r) {
        for (int64_t d = 0; d < width; ++d) {
          y[(row * heads + h) * width + d] +=
              a[(row * heads + h) * rank + r] * b[(row * rank + r) * width + d] / static_cast<double>(rank);
        }
      }
    }
  }
  return y;
}

class GoldenFactorDecode : public testing::TestWithParam<const char*> {};

TEST_P(GoldenFactorDecode, AgreesWithMaterialisedAttention) {
  const test::Hdf5Reader file(test::golden_path("factor_decode"));
  auto read = [&](const char* name) { return file.read(std::string(GetParam()) + "/" + name); };
  auto tensor = [&](const char* name) {
    const test::Hdf5Dataset set = read(name);
    return Tensor::from<double>(Shape(set.shape), set.values);
  };
  const test::Hdf5Dataset aq = read("aq"), bq = read("bq"), out = read("out");
  const int64_t batch = aq.shape[0], heads = aq.shape[1], rank = aq.shape[2], width = bq.shape[2];
  const Tensor q =
      Tensor::from<double>({batch, 1, heads, width}, materialise(aq.values, bq.values, batch, heads, rank, width));
  const FactorRows cache{tensor("ak"), tensor("bk"), tensor("av"), tensor("bv")};
  const Values rows = read("lengths").values;
  const Tensor lengths = lengths_of({rows.begin(), rows.end()});
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  for (const auto& [dtype, bound] :
       {std::pair(DType::f64, 2e-7), std::pair(DType::f32, 1e-6), std::pair(DType::bf16, 5e-3)}) {
    if (!runs(dtype)) continue;
    const Values o = factor_decode(there(q, dtype), there(cache, dtype), lengths, scale).to_doubles();
    EXPECT_LE(relative_error(o, out.values), bound) << name_of(dtype);
    if (dtype == DType::f32) {
      for (size_t i = 0; i < o.size(); ++i) EXPECT_NEAR(o[i], out.values[i], 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenFactorDecode,
                         testing::Values("h16_rq16_rk1_rv1_d128", "h32_rq16_rk1_rv1_d64", "h34_rq6_rk2_rv2_d64",
                                         "h7_rq3_rk1_rv2_d64"),
                         [](const auto& test_case) { return std::string(test_case.param).substr(0, 3); });

struct Case {
  Tensor q, a_k, b_k, a_v, b_v;
  Values k, v;  // materialised [B, M, H, D]
};

Case make_case(int64_t batch, int64_t queries, int64_t capacity, int64_t heads, int64_t width, int64_t rank_k,
               int64_t rank_v) {
  auto make = [](const Shape& shape, uint64_t stream) {
    return Tensor::from<double>(shape, random_values(shape.numel(), stream));
  };
  Case c{make({batch, queries, heads, width}, 0),
         make({batch, capacity, heads, rank_k}, 1),
         make({batch, capacity, rank_k, width}, 2),
         make({batch, capacity, heads, rank_v}, 3),
         make({batch, capacity, rank_v, width}, 4),
         {},
         {}};
  c.k = materialise(c.a_k.to_doubles(), c.b_k.to_doubles(), batch * capacity, heads, rank_k, width);
  c.v = materialise(c.a_v.to_doubles(), c.b_v.to_doubles(), batch * capacity, heads, rank_v, width);
  return c;
}

// Equal lengths: attention_decode on materialised keys and values is the reference.
void check(int64_t queries, int64_t capacity, int64_t length, int64_t heads, int64_t width, int64_t rank_k,
           int64_t rank_v) {
  const Case c = make_case(2, queries, capacity, heads, width, rank_k, rank_v);
  const Shape shape{2, capacity, heads, width};
  const Values expected =
      attention_decode(c.q, Tensor::from<double>(shape, c.k), Tensor::from<double>(shape, c.v), length - queries, 2.0)
          .to_doubles();
  const Tensor lengths = lengths_of({static_cast<int32_t>(length), static_cast<int32_t>(length)});
  for (const auto& [dtype, bound] :
       {std::pair(DType::f64, 1e-13), std::pair(DType::f32, 3e-6), std::pair(DType::bf16, 3e-2)}) {
    if (!runs(dtype)) continue;
    const FactorRows cache = there(FactorRows{c.a_k, c.b_k, c.a_v, c.b_v}, dtype);
    const Values o = factor_decode(there(c.q, dtype), cache, lengths.to(test::test_device()), 2.0).to_doubles();
    EXPECT_LE(relative_error(o, expected), bound) << name_of(dtype) << " length " << length;
  }
}

TEST(FactorDecode, AgreesWithAttentionOnMaterialisedRows) {
  check(1, 9, 1, 3, 8, 2, 2);
  check(1, 40, 33, 7, 8, 1, 2);
  check(3, 70, 65, 34, 16, 2, 1);
  check(2, 50, 50, 5, 34, 6, 3);
  check(1, 41, 41, 7, 24, 1, 3);  // the second sequence's head factors lie on no 16 bytes
}

TEST(FactorDecode, SplitsLongCaches) {
  check(2, 2500, 2500, 3, 8, 1, 1);
}

// So many queries that on a GPU one block runs through all rows of each.
TEST(FactorDecode, ManyQueries) {
  check(270, 400, 390, 3, 8, 1, 2);
  check(140, 200, 200, 40, 64, 2, 1);
}

// More heads and columns than a block of the GPU kernel sums at once; ranks that leave it few rows a tile.
TEST(FactorDecode, ManyHeadsWideHeadsManyRanks) {
  check(1, 21, 20, 66, 128, 1, 1);
  check(1, 40, 39, 150, 16, 1, 2);
  check(1, 19, 17, 5, 300, 1, 2);
  check(1, 30, 29, 4, 128, 16, 16);
  check(5, 7, 6, 3, 6, 3, 5);
}

// Scores far apart: late rows that outweigh all before them, and that do not. Token factors are numbers that
// bf16 has, too.
TEST(FactorDecode, ScoresFarApart) {
  for (const float slope : {0.1F, -0.1F}) {
    const int64_t capacity = 700, queries = 530;
    Case c = make_case(1, queries, capacity, 2, 8, 1, 1);
    for (int64_t m = 0; m < capacity; ++m) {
      c.b_k.slice(m * 8, {8}).fill(bfloat16(slope * static_cast<float>(m)));
      c.a_k.slice(m * 2, {2}).fill(1.0);
    }
    c.q.fill(1.0);
    c.k = materialise(c.a_k.to_doubles(), c.b_k.to_doubles(), capacity, 2, 1, 8);
    const Shape shape{1, capacity, 2, 8};
    const Values expected = attention_decode(c.q, Tensor::from<double>(shape, c.k), Tensor::from<double>(shape, c.v),
                                             capacity - queries, 1.0)
                                .to_doubles();
    for (const auto& [dtype, bound] :
         {std::pair(most_exact(), test::on_cuda() ? 2e-5 : 1e-12), std::pair(DType::bf16, 3e-2)}) {
      const FactorRows cache = there(FactorRows{c.a_k, c.b_k, c.a_v, c.b_v}, dtype);
      const Values o =
          factor_decode(there(c.q, dtype), cache, lengths_of({static_cast<int32_t>(capacity)}), 1.0).to_doubles();
      EXPECT_LE(relative_error(o, expected), bound) << name_of(dtype) << " slope " << slope;
    }
  }
}

TEST(FactorDecode, UnevenLengthsDoNotReadBehindThem) {
  const Case c = make_case(2, 1, 2100, 3, 8, 2, 1);
  const std::vector<int32_t> lengths{1030, 5};
  const FactorRows cache{c.a_k.clone(), c.b_k.clone(), c.a_v.clone(), c.b_v.clone()};
  for (const Tensor& t : {cache.a_k, cache.b_k, cache.a_v, cache.b_v}) {
    const int64_t row = t.numel() / 2 / 2100;
    for (int64_t b = 0; b < 2; ++b) {
      const int64_t unused = 2100 - lengths[b];
      t.slice((b * 2100 + lengths[b]) * row, {unused * row}).fill(NAN);
    }
  }
  for (const auto& [dtype, bound] :
       {std::pair(most_exact(), test::on_cuda() ? 3e-6 : 1e-13), std::pair(DType::bf16, 3e-2)}) {
    const Values o = factor_decode(there(c.q, dtype), there(cache, dtype), lengths_of(lengths), 1.0).to_doubles();
    for (int64_t b = 0; b < 2; ++b) {
      const Shape shape{1, 2100, 3, 8};
      const auto half = [&](const Values& x) { return Tensor::from<double>({2, 2100, 3, 8}, x).rows(b, 1); };
      const Values expected = attention_decode(c.q.rows(b, 1), half(c.k), half(c.v), lengths[b] - 1, 1.0).to_doubles();
      EXPECT_LE(relative_error(Values(o.begin() + b * 24, o.begin() + (b + 1) * 24), expected), bound)
          << name_of(dtype) << " sequence " << b;
    }
  }
}

TEST(FactorDecode, DoesNotDependOnThreadCount) {
  const Case c = make_case(2, 1, 3000, 7, 16, 2, 2);
  const FactorRows cache = there(FactorRows{c.a_k, c.b_k, c.a_v, c.b_v}, DType::f32);
  const Tensor q = there(c.q, DType::f32);
  auto out = [&] { return factor_decode(q, cache, lengths_of({3000, 1500}), 1.0).to_doubles(); };
  const Values one = test::with_threads(1, out);
  EXPECT_EQ(one, test::with_threads(2, out));
  EXPECT_EQ(one, test::with_threads(3, out));
}

// Lengths on a GPU cannot be checked: those out of range are taken for the nearest.
TEST(FactorDecode, TakesTheNearestLengthOnAGpu) {
  if (!test::on_cuda()) GTEST_SKIP() << "on the CPU they are refused";
  const Case c = make_case(2, 3, 90, 5, 16, 1, 2);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const FactorRows cache = there(FactorRows{c.a_k, c.b_k, c.a_v, c.b_v}, dtype);
    const auto out = [&](const std::vector<int32_t>& lengths) {
      return factor_decode(there(c.q, dtype), cache, lengths_of(lengths).to(test::test_device()), 1.0).to_doubles();
    };
    EXPECT_EQ(out({0, 97}), out({3, 90})) << name_of(dtype);
  }
}

TEST(FactorDecode, RejectsLengthsBeyondTheCache) {
  const Case c = make_case(1, 2, 6, 2, 4, 1, 1);
  const FactorRows cache{c.a_k, c.b_k, c.a_v, c.b_v};
  EXPECT_NO_THROW(factor_decode(c.q, cache, lengths_of({6}), 1.0));
  EXPECT_THROW(factor_decode(c.q, cache, lengths_of({7}), 1.0), Error);
  EXPECT_THROW(factor_decode(c.q, cache, lengths_of({1}), 1.0), Error);
  EXPECT_THROW(factor_decode(c.q, {c.a_k, c.b_v, c.b_k, c.a_v}, lengths_of({6}), 1.0), Error);
}

}  // namespace
}  // namespace t6
