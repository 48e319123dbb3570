#include "ops/attention_backend.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/rng.h"
#include "ops/attention.h"
#include "support/device.h"
#include "support/relative_error.h"

namespace t6 {
namespace {

using Values = std::vector<double>;
using test::relative_error;

// Puts the backend back as it was.
class WithBackend {
 public:
  explicit WithBackend(AttentionKernels kernels, bool deterministic = false) : before_(attention_backend()) {
    set_attention_backend({kernels, deterministic});
  }
  ~WithBackend() { set_attention_backend(before_); }
  WithBackend(const WithBackend&) = delete;
  WithBackend& operator=(const WithBackend&) = delete;

 private:
  AttentionBackend before_;
};

bool cudnn_is_named() {
  const char* file = std::getenv("T6_CUDNN");
  return file != nullptr && *file != '\0';
}

struct Heads {
  const char* model;
  int64_t heads, kv_heads, qk_width, v_width;
};
// The small models' heads (tpa has mha's grouping, with 34), and wide ones.
constexpr Heads kModels[] = {{"mha", 12, 12, 64, 64}, {"mqa", 23, 1, 64, 64},  {"gqa", 22, 2, 64, 64},
                             {"mla", 13, 13, 96, 64}, {"tpa", 34, 34, 64, 64}, {"tpa_kvonly", 22, 22, 64, 64},
                             {"wide", 4, 2, 128, 128}};

Tensor random(const Shape& shape, uint64_t stream) {
  const Philox rng(11, RngPurpose::test, stream);
  Values values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = 2 * rng.uniform(i) - 1;
  return Tensor::from<double>(shape, values).to(DType::bf16).to(test::test_device());
}

struct Pass {
  Values o, dq, dk, dv;
};

// Forward and backward in bf16, each on its own kernels.
Pass run(const Heads& m, int64_t tokens, AttentionKernels forward, AttentionKernels backward_on,
         bool deterministic = false) {
  const Variable q(random({2, tokens, m.heads, m.qk_width}, 0), Leaf::input);
  const Variable k(random({2, tokens, m.kv_heads, m.qk_width}, 1), Leaf::input);
  const Variable v(random({2, tokens, m.kv_heads, m.v_width}, 2), Leaf::input);
  Variable o;
  {
    const WithBackend with(forward, deterministic);
    o = attention(q, k, v, 1 / std::sqrt(static_cast<double>(m.qk_width)));
  }
  Variable root(Tensor::full({1}, DType::f64, 0.0));
  record("weigh", {o}, {&root}, [&](Gradients& g) { g.give(0, random(o.shape(), 3)); });
  const WithBackend with(backward_on, deterministic);
  backward(root);
  return {o.value().to_doubles(), q.grad().to_doubles(), k.grad().to_doubles(), v.grad().to_doubles()};
}

// Where T6_CUDNN names the library it is meant to be there.
#define T6_SKIP_WITHOUT_CUDNN()                                                                               \
  if (!test::on_cuda() || !cudnn_available()) {                                                               \
    ASSERT_FALSE(test::on_cuda() && cudnn_is_named()) << "T6_CUDNN is set: " << describe_attention_backend(); \
    GTEST_SKIP() << "no cuDNN here: " << describe_attention_backend();                                        \
  }                                                                                                           \
  static_assert(true)

// A backward that reads the other's log-sum-exp is right only where both write the same one.
TEST(AttentionBackend, CudnnAgreesWithOwnKernels) {
  T6_SKIP_WITHOUT_CUDNN();
  constexpr double kBound = 1.5e-2;
  using enum AttentionKernels;
  for (const Heads& m : kModels) {
    for (const int64_t tokens : {64, 200}) {
      const Pass expected = run(m, tokens, own, own);
      for (const auto& [forward, backward_on] : {std::pair(cudnn, cudnn), {cudnn, own}, {own, cudnn}}) {
        const Pass got = run(m, tokens, forward, backward_on);
        const std::string what = std::string(m.model) + " " + std::to_string(tokens) +
                                 (forward == own ? " own" : " cudnn") + (backward_on == own ? " own" : " cudnn");
        EXPECT_LE(relative_error(got.o, expected.o), kBound) << what;
        EXPECT_LE(relative_error(got.dq, expected.dq), kBound) << what;
        EXPECT_LE(relative_error(got.dk, expected.dk), kBound) << what;
        EXPECT_LE(relative_error(got.dv, expected.dv), kBound) << what;
      }
    }
  }
}

TEST(AttentionBackend, DeterministicGradientsAreTheSameBits) {
  T6_SKIP_WITHOUT_CUDNN();
  using enum AttentionKernels;
  for (const Heads& m : kModels) {
    const Pass first = run(m, 300, cudnn, cudnn, true), second = run(m, 300, cudnn, cudnn, true);
    EXPECT_EQ(first.dq, second.dq) << m.model;
    EXPECT_EQ(first.dk, second.dk) << m.model;
    EXPECT_EQ(first.dv, second.dv) << m.model;
  }
}

TEST(AttentionBackend, FallsBackOnlyWhenItMay) {
  if (!test::on_cuda()) GTEST_SKIP() << "the CPU has one implementation";
  const Heads odd{"odd", 2, 2, 12, 12};  // no width for cuDNN
  const Pass expected = run(odd, 20, AttentionKernels::own, AttentionKernels::own);
  EXPECT_EQ(run(odd, 20, AttentionKernels::automatic, AttentionKernels::automatic).dk, expected.dk);
  if (cudnn_available()) return;
  const WithBackend with(AttentionKernels::cudnn);
  const Variable x(random({1, 4, 1, 8}, 0));
  try {
    attention(x, x, x, 1.0);
    FAIL() << "attention ran on a cuDNN that is not there";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

TEST(AttentionBackend, TellsWhichKernelsRan) {
  if (!test::on_cuda()) GTEST_SKIP() << "the CPU has one implementation";
  using enum AttentionKernels;
  using enum AttentionPass;
  const Heads odd{"odd", 2, 2, 12, 12};  // no width for cuDNN
  forget_attention_kernels();
  EXPECT_EQ(attention_kernels_used(forward) + attention_kernels_used(backward), "");
  {
    const WithBackend with(automatic);
    const Variable x(random({1, 4, 1, 12}, 0));
    attention(x, x, x, 1.0);
  }
  EXPECT_EQ(attention_kernels_used(forward), "own kernels");
  EXPECT_EQ(attention_kernels_used(backward), "");
  run(odd, 20, automatic, automatic);
  EXPECT_EQ(attention_kernels_used(backward), "own kernels");
  if (cudnn_available()) {
    run(kModels[0], 64, cudnn, own);
    EXPECT_EQ(attention_kernels_used(forward), "cuDNN and own kernels");
    EXPECT_EQ(attention_kernels_used(backward), "own kernels");
    forget_attention_kernels();
    run(kModels[0], 64, own, cudnn);
    EXPECT_EQ(attention_kernels_used(backward), "cuDNN");
  }
}

TEST(AttentionBackend, IsDescribed) {
  {
    const WithBackend with(AttentionKernels::own);
    EXPECT_EQ(describe_attention_backend(), "own kernels");
  }
  const WithBackend with(AttentionKernels::automatic, true);
  const std::string text = describe_attention_backend();
  if (cudnn_available()) {
    EXPECT_TRUE(text.starts_with("cuDNN 9.") && text.ends_with(", deterministic")) << text;
  } else {
    EXPECT_TRUE(text.starts_with("own kernels (")) << text;
  }
}

}  // namespace
}  // namespace t6
