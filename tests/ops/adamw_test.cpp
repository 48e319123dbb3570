#include "ops/adamw.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "ops/global_norm.h"
#include "support/device.h"
#include "support/every_order.h"
#include "support/random_tensor.h"

namespace t6 {
namespace {

constexpr double kLr = 3e-3, kBeta1 = 0.9, kBeta2 = 0.95, kEps = 1e-8, kDecay = 0.1;

struct State {
  Tensor parameter, m, v, copy;
  explicit State(int64_t count, int64_t copy_begin = 0)
      : parameter(test::random_tensor({count}, DType::f32, 5, test::test_device())),
        m(Tensor::zeros({count}, DType::f32, test::test_device())),
        v(Tensor::zeros({count}, DType::f32, test::test_device())),
        copy(Tensor::zeros({copy_begin + count}, DType::bf16, test::test_device()).slice(copy_begin, {count})) {}
  std::vector<Tensor> all() const { return {parameter, m, v, copy}; }
};

void update(const AdamWArgs& args) {
  adamw(test::test_device(), args);
}

// Gradients of very different sizes; some are zero.
Tensor gradient_at(int64_t count, int64_t step) {
  const Philox rng(6, RngPurpose::test, static_cast<uint64_t>(step));
  Tensor g = Tensor::empty({count}, DType::f32);
  for (int64_t i = 0; i < count; ++i) {
    const double size = i % 7 == 0 ? 0.0 : std::pow(10.0, -static_cast<double>(i % 5));
    g.data<float>()[i] = static_cast<float>((rng.uniform(static_cast<uint64_t>(i)) - 0.3) * size);
  }
  return g.to(test::test_device());
}

AdamWArgs args_of(const State& s, const Tensor& gradient, int64_t step) {
  return {.parameter = s.parameter.data<float>(),
          .gradient = gradient.data<float>(),
          .m = s.m.data<float>(),
          .v = s.v.data<float>(),
          .copy = s.copy.data<bfloat16>(),
          .clip = nullptr,
          .count = s.parameter.numel(),
          .step = step,
          .lr = kLr,
          .beta1 = kBeta1,
          .beta2 = kBeta2,
          .eps = kEps,
          .weight_decay = kDecay};
}

// The formula, one element at a time in f64.
struct Reference {
  std::vector<double> p, m, v;
  explicit Reference(const Tensor& parameter) : p(parameter.to_doubles()), m(p.size()), v(p.size()) {}

  void update(const Tensor& gradient, double scale, int64_t step) {
    const double bias1 = 1 - std::pow(kBeta1, static_cast<double>(step));
    const double bias2 = 1 - std::pow(kBeta2, static_cast<double>(step));
    const std::vector<double> raw = gradient.to_doubles();
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = raw[i] * scale;
      p[i] -= kLr * kDecay * p[i];
      m[i] = kBeta1 * m[i] + (1 - kBeta1) * g;
      v[i] = kBeta2 * v[i] + (1 - kBeta2) * g * g;
      p[i] -= kLr * (m[i] / bias1) / (std::sqrt(v[i] / bias2) + kEps);
    }
  }
};

TEST(AdamW, FollowsTheFormulaOverManySteps) {
  memory::set_poison(true);
  const int64_t count = 1001;
  const State s(count);
  Reference expected(s.parameter);
  const Tensor clip = Tensor::full({1}, DType::f32, 0.25, test::test_device());
  for (int64_t step = 1; step <= 200; ++step) {
    const Tensor gradient = gradient_at(count, step);
    AdamWArgs args = args_of(s, gradient, step);
    args.clip = clip.data<float>();
    args.gradient_scale = 2.0;
    update(args);
    expected.update(gradient, 0.5, step);
  }
  EXPECT_NO_THROW(memory::check_guards());
  memory::set_poison(false);
  const std::vector<double> got_p = s.parameter.to_doubles(), got_m = s.m.to_doubles(), got_v = s.v.to_doubles();
  for (size_t i = 0; i < expected.p.size(); ++i) {
    const double m = expected.m[i], v = expected.v[i];
    EXPECT_NEAR(got_p[i], expected.p[i], 2e-6) << i;
    EXPECT_NEAR(got_m[i], m, 1e-6 * std::abs(m) + 1e-7) << i;
    EXPECT_NEAR(got_v[i], v, 2e-6 * v) << i;
  }
  EXPECT_EQ(s.copy.to_doubles(), s.parameter.to(kCpu).to(DType::bf16).to_doubles());
}

TEST(AdamW, FirstStepMovesByTheLearningRate) {
  const State s(8);
  const std::vector<double> before = s.parameter.to_doubles();
  const Tensor gradient = Tensor::full({8}, DType::f32, 1e-3, test::test_device());
  AdamWArgs args = args_of(s, gradient, 1);
  args.weight_decay = 0;
  args.copy = nullptr;
  update(args);
  const std::vector<double> after = s.parameter.to_doubles();
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(after[i], before[i] - kLr, 1e-7);
}

TEST(AdamW, SameForEveryThreadCountAndCut) {
  const int64_t count = 100'003;
  const State whole(count), cut(count);
  const int threads = omp_get_max_threads();
  for (int64_t step = 1; step <= 3; ++step) {
    const Tensor gradient = gradient_at(count, step);
    omp_set_num_threads(3);
    update(args_of(whole, gradient, step));
    omp_set_num_threads(1);
    const std::array<int64_t, 4> bounds{0, 33, 50'033, count};  // from 33 on nothing is aligned
    for (size_t part = 0; part + 1 < bounds.size(); ++part) {
      const int64_t begin = bounds[part];
      AdamWArgs args = args_of(cut, gradient, step);
      args.parameter += begin;
      args.gradient += begin;
      args.m += begin;
      args.v += begin;
      args.copy += begin;
      args.count = bounds[part + 1] - begin;
      update(args);
    }
    omp_set_num_threads(threads);
  }
  EXPECT_EQ(whole.parameter.to_doubles(), cut.parameter.to_doubles());
  EXPECT_EQ(whole.v.to_doubles(), cut.v.to_doubles());
  EXPECT_EQ(whole.copy.to_doubles(), cut.copy.to_doubles());
}

TEST(AdamW, CopyOffItsAlignment) {
  const State aligned(70), off(70, 1);
  update(args_of(aligned, gradient_at(70, 1), 1));
  update(args_of(off, gradient_at(70, 1), 1));
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(off.all()[i].to_doubles(), aligned.all()[i].to_doubles());
}

TEST(AdamW, SameInEveryOrder) {
  test::expect_same_in_every_order([] {
    const State s(2051);
    for (int64_t step = 1; step <= 2; ++step) update(args_of(s, gradient_at(2051, step), step));
    return s.all();
  });
}

// A host that looks at the norm one step late finds everything as it was before the bad step.
TEST(AdamW, LeavesEverythingWhenTheClipFactorIsNaN) {
  const State s(1003);
  update(args_of(s, gradient_at(1003, 1), 1));
  std::vector<Tensor> before;
  for (const Tensor& t : s.all()) before.push_back(t.clone());

  const Tensor host = gradient_at(1003, 2).to(kCpu).clone();
  host.data<float>()[501] = INFINITY;
  const Tensor bad = host.to(test::test_device()), good = gradient_at(1003, 3);
  const Tensor bad_clip = norm_and_clip(sum_of_squares({bad}), 1.0);
  const Tensor next_clip = norm_and_clip(sum_of_squares({good}), 1.0, bad_clip);
  for (const auto& [gradient, clip] : {std::pair(bad, bad_clip), std::pair(good, next_clip)}) {
    AdamWArgs args = args_of(s, gradient, 2);
    args.clip = clip.data<float>() + 1;
    update(args);
  }
  AdamWArgs args = args_of(s, good, 2);
  args.gradient_scale = std::nan("");
  update(args);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(s.all()[i].to_doubles(), before[i].to_doubles());
}

// A parameter of zero with a zero gradient stays zero: padding inside a tensor keeps its value.
TEST(AdamW, ZerosStayZero) {
  const State s(64);
  s.parameter.fill(0);
  const Tensor gradient = Tensor::zeros({64}, DType::f32, test::test_device());
  for (int64_t step = 1; step <= 5; ++step) update(args_of(s, gradient, step));
  for (const double x : s.parameter.to_doubles()) EXPECT_EQ(x, 0.0);
}

TEST(AdamW, RejectsStepZero) {
  const State s(4);
  const Tensor gradient = Tensor::zeros({4}, DType::f32);
  EXPECT_THROW(update(args_of(s, gradient, 0)), Error);
}

}  // namespace
}  // namespace t6
