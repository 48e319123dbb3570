#include "ops/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "support/device.h"
#include "support/every_order.h"
#include "support/op_check.h"
#include "support/random_tensor.h"

namespace t6 {
namespace {

void check(const Shape& shape, double reach) {
  const size_t width = static_cast<size_t>(shape[-1]) / 2;
  test::op_check({.name = "swiglu " + to_string(shape),
                  .inputs = {{.shape = shape, .low = -reach, .high = reach}},
                  .call = [](const auto& in, DType) -> std::vector<Variable> { return {swiglu(in[0])}; },
                  .reference = [width](const auto& in) -> std::vector<std::vector<double>> {
                    std::vector<double> h;
                    for (size_t row = 0; row < in[0].size(); row += 2 * width) {
                      for (size_t i = 0; i < width; ++i) {
                        const double g = in[0][row + i];
                        h.push_back(g / (1 + std::exp(-g)) * in[0][row + width + i]);
                      }
                    }
                    return {h};
                  }});
}

TEST(Swiglu, Packed) {
  check({2, 3, 34}, 3.0);
  check({1, 2}, 1.0);
  check({5, 170}, 3.0);
  check({7, 2 * 24}, 3.0);  // rows of whole 16-byte packs
}

TEST(Swiglu, LongRowsAndManyRows) {
  if (!test::on_cuda()) GTEST_SKIP() << "about blocks of threads; on the CPU differences would take seconds";
  check({3, 2 * 2752}, 3.0);
  check({2, 2 * 2755}, 3.0);
  check({700, 2}, 3.0);
}

TEST(Swiglu, SameInEveryOrder) {
  for (const int64_t width : {37, 48}) {
    const Variable packed(test::random_tensor({9, 2 * width}, DType::bf16, 1, test::test_device()), Leaf::input);
    test::expect_same_in_every_order([&] {
      const Variable h = swiglu(packed);
      return std::vector<Tensor>{h.value()};
    });
  }
}

// Tensors that begin inside a storage need not lie on a 16-byte boundary.
TEST(Swiglu, UnalignedStorage) {
  const Tensor all = test::random_tensor({1 + 5 * 32}, DType::bf16, 2, test::test_device());
  const Variable shifted(all.slice(1, {5, 32})), aligned(shifted.value().clone());
  EXPECT_EQ(swiglu(shifted).value().to_doubles(), swiglu(aligned).value().to_doubles());
}

TEST(Swiglu, LargeGates) {
  check({3, 34}, 90.0);
}

TEST(Swiglu, RejectsOddRows) {
  EXPECT_THROW(swiglu(Variable(Tensor::zeros({2, 5}, DType::f32))), Error);
}

}  // namespace
}  // namespace t6
