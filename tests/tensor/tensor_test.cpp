#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace t6 {
namespace {

TEST(BFloat16, RoundsToNearestEven) {
  auto bits = [](float x) { return bfloat16(x).bits; };
  EXPECT_EQ(bits(1.0f), 0x3F80);
  EXPECT_EQ(bits(1.00390625f), 0x3F80);  // halfway, to even
  EXPECT_EQ(bits(1.01171875f), 0x3F82);  // halfway, to even
  EXPECT_EQ(bits(1.0039064f), 0x3F81);   // just above halfway
  EXPECT_EQ(bits(3.4e38f), 0x7F80);      // overflows to infinity
  EXPECT_TRUE(std::isnan(static_cast<float>(bfloat16(std::nanf("")))));
}

TEST(Tensor, ViewsShareAndClonesDoNot) {
  const Tensor t = Tensor::from<float>({2, 3}, std::vector<float>{0, 1, 2, 3, 4, 5});
  const Tensor row = t.rows(1, 1);
  row.fill(9);
  EXPECT_EQ(t.to_doubles(), (std::vector<double>{0, 1, 2, 9, 9, 9}));
  const Tensor copy = t.clone();
  copy.fill(0);
  EXPECT_EQ(t.to_doubles()[5], 9);
  EXPECT_FALSE(t.sole_owner());
  EXPECT_TRUE(copy.sole_owner());
}

TEST(Tensor, WrongDtypeAndRangeAreRefused) {
  const Tensor t = Tensor::zeros({2, 3}, DType::f32);
  EXPECT_THROW(t.data<double>(), Error);
  EXPECT_THROW(t.rows(1, 2), Error);
  EXPECT_THROW(t.view({5}), Error);
}

TEST(Tensor, ConvertsBetweenDtypes) {
  const Tensor t = Tensor::from<double>({3}, std::vector<double>{1.5, -2.25, 1e-3});
  EXPECT_EQ(t.to(DType::f32).to_doubles()[2], static_cast<double>(1e-3f));
  EXPECT_EQ(t.to(DType::bf16).to_doubles()[1], -2.25);
}

TEST(Memory, GuardsCatchAnOverrun) {
  memory::set_poison(true);
  const Tensor t = Tensor::empty({5}, DType::f32);
  EXPECT_TRUE(std::isnan(t.data<float>()[0]));
  EXPECT_NO_THROW(memory::check_guards());
  static_cast<volatile float*>(t.data<float>())[5] = 1.0f;
  EXPECT_THROW(memory::check_guards(), Error);
  memory::set_poison(false);
}

TEST(Memory, CountsUseAndPeak) {
  const size_t before = memory::usage().in_use;
  {
    const Tensor t = Tensor::empty({1000}, DType::f32);
    EXPECT_EQ(memory::usage().in_use, before + 4000);
  }
  EXPECT_EQ(memory::usage().in_use, before);
  EXPECT_GE(memory::usage().peak, before + 4000);
}

}  // namespace
}  // namespace t6
