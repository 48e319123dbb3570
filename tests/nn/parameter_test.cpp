#include "nn/parameter.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace t6 {
namespace {

// Two views packed into padded storage, and a norm weight.
struct Example {
  ParameterStore store;
  Parameter& packed =
      store.declare({{"a", {3, 5}, Init::uniform(0.5), 0}, {"b", {2, 5}, Init::uniform(2.0), 4}}, {8, 7});
  Parameter& norm = store.declare({{"norm", {6}, Init::one(), 0}}, {6});
};

TEST(Parameters, CountsViewsWithoutPadding) {
  Example e;
  EXPECT_EQ(e.store.count(), 3 * 5 + 2 * 5 + 6);
  EXPECT_TRUE(e.packed.is_matrix());
  EXPECT_FALSE(e.norm.is_matrix());
}

TEST(Parameters, PaddingStaysZeroAndViewsRoundTrip) {
  Example e;
  e.store.allocate(DType::f32);
  e.store.initialise(42);
  const std::vector<double> stored = e.packed.variable().value().to_doubles();
  for (int64_t r = 0; r < 8; ++r) {
    for (int64_t c = 0; c < 7; ++c) {
      const bool inside = c < 5 && (r < 3 || r == 4 || r == 5);
      EXPECT_EQ(stored[static_cast<size_t>(r * 7 + c)] != 0, inside) << r << "," << c;
      EXPECT_LE(std::abs(stored[static_cast<size_t>(r * 7 + c)]), r < 3 ? 0.5 : 2.0);
    }
  }
  const Tensor b = e.store.gather(e.store.master(), e.packed, e.packed.views()[1]);
  EXPECT_EQ(b.shape(), (Shape{2, 5}));
  EXPECT_EQ(b.to_doubles()[7], stored[5 * 7 + 2]);
  b.fill(3);
  e.store.scatter(e.store.master(), e.packed, e.packed.views()[1], b);
  EXPECT_EQ(e.packed.variable().value().to_doubles()[5 * 7 + 2], 3);
  EXPECT_EQ(e.packed.variable().value().to_doubles()[5 * 7 + 5], 0);
  EXPECT_EQ(e.norm.variable().value().to_doubles(), std::vector<double>(6, 1.0));
}

TEST(Parameters, EqualNamesStartEqualInEveryModel) {
  Example e;
  ParameterStore alone;
  Parameter& b = alone.declare({{"b", {2, 5}, Init::uniform(2.0), 0}}, {2, 5});
  e.store.allocate(DType::f32);
  alone.allocate(DType::f32);
  e.store.initialise(7);
  alone.initialise(7);
  const Tensor expected = e.store.gather(e.store.master(), e.packed, e.packed.views()[1]);
  EXPECT_EQ(alone.gather(alone.master(), b, b.views()[0]).to_doubles(), expected.to_doubles());
  alone.initialise(8);
  EXPECT_NE(alone.gather(alone.master(), b, b.views()[0]).to_doubles(), expected.to_doubles());
}

TEST(Parameters, Bf16ComputeCopyRoundsTheMasters) {
  Example e;
  e.store.allocate(DType::bf16);
  e.store.initialise(1);
  EXPECT_EQ(e.store.master().dtype(), DType::f32);
  EXPECT_EQ(e.packed.variable().dtype(), DType::bf16);
  EXPECT_EQ(e.packed.variable().grad().dtype(), DType::f32);
  EXPECT_EQ(e.store.compute().to_doubles(), e.store.master().to(DType::bf16).to_doubles());
}

TEST(Parameters, ForInferenceHoldWhatProductsReadAndNothingElse) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    Example trained, e;
    trained.store.allocate(compute);
    trained.store.initialise(1);
    const size_t before = memory::usage().in_use;
    e.store.allocate_for_inference(compute);
    const size_t taken = memory::usage().in_use - before;
    const Tensor one = Tensor::empty({e.store.storage_size()}, compute);
    EXPECT_EQ(taken, memory::usage().in_use - before - taken);
    EXPECT_FALSE(e.store.gradient().defined());
    EXPECT_FALSE(e.packed.variable().needs_grad());
    e.store.initialise(1);
    EXPECT_EQ(e.packed.variable().dtype(), compute);
    EXPECT_EQ(e.store.compute().to_doubles(), trained.store.compute().to_doubles());
  }
}

TEST(Parameters, NamesAreUniqueAndViewsFit) {
  Example e;
  EXPECT_THROW(e.store.declare({{"a", {1, 1}, Init::zero(), 0}}, {1, 1}), Error);
  EXPECT_THROW(e.store.declare({{"c", {3, 5}, Init::zero(), 6}}, {8, 7}), Error);
}

}  // namespace
}  // namespace t6
