// What every attention kind must do: these tests iterate the list of kinds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "autograd/tape.h"
#include "base/error.h"
#include "model/counts.h"
#include "model/generate.h"
#include "model/transformer.h"
#include "ops/matmul.h"
#include "support/device.h"
#include "support/golden.h"
#include "support/small_model.h"

namespace t6 {
namespace {

using test::allocate_random;
using test::random_tokens;

class Kinds : public testing::TestWithParam<AttentionKind> {
 protected:
  static ModelConfig small_config() { return test::small_model_config(GetParam()); }
};

TEST_P(Kinds, GradientOfTheWholeModelMatchesCentralDifferences) {
  Transformer model(small_config());
  allocate_random(model, DType::f64);
  const Tensor x = random_tokens(2, 7, 37), y = random_tokens(2, 7, 37, 101);
  backward(model.loss(x, y, 1.0));
  ParameterStore& store = model.parameters();
  const double h = 1e-5;
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    const Tensor values = store.gather(store.master(), p, v), grad = store.gather(store.gradient(), p, v);
    std::vector<double> got, expected;
    const int64_t stride = std::max<int64_t>(1, v.shape.numel() / 12);
    for (int64_t i = 0; i < v.shape.numel(); i += stride) {
      auto loss_at = [&](double delta) {
        const Tensor moved = values.clone();
        moved.data<double>()[i] += delta;
        store.scatter(store.master(), p, v, moved);
        const NoGrad no_grad;
        return model.loss(x, y, 1.0).value().item();
      };
      expected.push_back((loss_at(h) - loss_at(-h)) / (2 * h));
      got.push_back(grad.data<double>()[i]);
    }
    store.scatter(store.master(), p, v, values);
    EXPECT_LE(test::relative_error(got, expected), 1e-6) << v.name;
  });
}

TEST_P(Kinds, IsCausal) {
  Transformer model(small_config());
  allocate_random(model, DType::f32);
  const Tensor x = random_tokens(1, 20, 37);
  const std::vector<double> before = model.logits(x).to_doubles();
  for (int64_t changed : {19, 12, 3}) {
    const Tensor other = x.clone();
    other.data<int32_t>()[changed] = (other.data<int32_t>()[changed] + 1) % 37;
    const std::vector<double> after = model.logits(other).to_doubles();
    const auto split = static_cast<ptrdiff_t>(changed * 37);
    EXPECT_TRUE(std::equal(before.begin(), before.begin() + split, after.begin())) << changed;
    EXPECT_FALSE(std::equal(before.begin() + split, before.end(), after.begin() + split)) << changed;
  }
}

TEST_P(Kinds, ForwardEqualsDecodeWithTheCache) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    Transformer model(small_config());
    allocate_random(model, dtype);
    const int64_t batch = 2, count = 24, vocabulary = 37;
    const Tensor x = random_tokens(batch, count, vocabulary);
    const std::vector<double> whole = model.logits(x).to_doubles();
    // A prompt of five tokens at once, then pairs, then token by token.
    DecodeState state = model.new_decode_state(batch, count);
    std::vector<double> got, expected;
    for (int64_t at = 0; at < count;) {
      const int64_t step = at == 0 ? 5 : at < 11 ? 2 : 1;
      Tensor chunk = Tensor::empty({batch, step}, DType::i32);
      for (int64_t b = 0; b < batch; ++b) chunk.rows(b, 1).copy_from(x.slice(b * count + at, {step}));
      const std::vector<double> logits = model.decode(chunk, state).to_doubles();
      got.insert(got.end(), logits.begin(), logits.end());
      at += step;
      for (int64_t b = 0; b < batch; ++b) {
        const auto row = whole.begin() + static_cast<ptrdiff_t>((b * count + at - 1) * vocabulary);
        expected.insert(expected.end(), row, row + vocabulary);
      }
    }
    EXPECT_EQ(state.length(), count);
    const double bound = dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 3e-2;
    EXPECT_LE(test::relative_error(got, expected), bound) << name_of(dtype);
    EXPECT_THROW(model.decode(random_tokens(batch, 1, vocabulary), state), Error);
  }
}

TEST_P(Kinds, CacheBytesFollowTheFormula) {
  const ModelConfig config = small_config();
  const Transformer declared(config);
  const int64_t h = config.heads, d = config.head_width;
  int64_t expected = 0;
  switch (config.kind()) {
    case AttentionKind::mha:
      expected = 2 * h * d;
      break;
    case AttentionKind::mqa:
      expected = 2 * d;
      break;
    case AttentionKind::gqa:
      expected = 2 * 2 * d;
      break;
    case AttentionKind::mla:
      expected = 20 + 4;
      break;
    case AttentionKind::tpa:
    case AttentionKind::tpa_kvonly:
      expected = (2 + 2) * (h + d);
      break;
  }
  EXPECT_EQ(count(declared).cache_numbers, config.layers * expected);
  Transformer model(config);
  model.allocate(DType::bf16);
  const DecodeState state = model.new_decode_state(3, 11);
  EXPECT_EQ(state.bytes(), static_cast<size_t>(2 * 3 * 11 * config.layers * expected));
}

TEST_P(Kinds, RecomputeGivesEqualLossesAndGradients) {
  Transformer model(small_config());
  allocate_random(model, DType::f32);
  const Tensor x = random_tokens(2, 9, 37), y = random_tokens(2, 9, 37, 101);
  auto run = [&](Recompute recompute) {
    model.parameters().zero_gradient();
    const Variable loss = model.loss(x, y, 1.0, recompute);
    backward(loss);
    std::vector<double> all = model.parameters().gradient().to_doubles();
    all.push_back(loss.value().item());
    return all;
  };
  const std::vector<double> plain = run(Recompute::none);
  EXPECT_EQ(run(Recompute::qkv), plain);
  EXPECT_EQ(run(Recompute::attention), plain);
  EXPECT_EQ(run(Recompute::block), plain);
}

// What a config may ask of a kind is what the kind does.
TEST_P(Kinds, QueriesKeysAndValuesAreMadeAgainWhereThereAreFactors) {
  const ModelConfig config = small_config();
  const Transformer model(config);
  const bool tpa = config.kind() == AttentionKind::tpa || config.kind() == AttentionKind::tpa_kvonly;
  EXPECT_EQ(config.has_factors(), tpa);
  EXPECT_EQ(model.attention().rebuilt_numbers(), tpa ? 3 * config.heads * config.head_width : 0);
}

// On a GPU smaller, as it may be an emulated one; what products work in is there before and not counted.
TEST_P(Kinds, MemoryEstimateIsWithinATenthOfThePeak) {
  if (test::on_cuda() && gpu::count() == 0) GTEST_SKIP() << "needs a GPU";
  const Device device = test::test_device();
  const auto usage = [&] {
    return device.is_cuda() ? std::pair(gpu::memory().in_use, gpu::peak_bytes())
                            : std::pair(memory::usage().in_use, memory::usage().peak);
  };
  ModelConfig config = small_config();
  config.layers = 4;
  config.width = 128;
  config.head_width = 32;
  config.vocab_size = 512;
  config.context = device.is_cuda() ? 64 : 128;
  const int64_t batch = device.is_cuda() ? 4 : 16;
  prepare_matmul(device);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Recompute recompute : {Recompute::none, Recompute::qkv, Recompute::attention, Recompute::block}) {
      device.is_cuda() ? gpu::reset_peak() : memory::reset_peak();
      const auto before = static_cast<double>(usage().first);
      Transformer model(config);
      model.allocate(dtype, device);
      const Tensor& master = model.parameters().master();
      const Tensor m = Tensor::zeros(master.shape(), master.dtype(), device), v = m.clone();
      const Tensor x = random_tokens(batch, config.context, 512), y = random_tokens(batch, config.context, 512, 101);
      backward(model.loss(x, y, 1.0, recompute));
      const double peak = static_cast<double>(usage().second) - before;
      const MemoryEstimate estimate =
          estimate_memory(model, {.micro_batch = batch, .compute = dtype, .recompute = recompute, .device = device});
      EXPECT_NEAR(static_cast<double>(estimate.parameters + estimate.activations) / peak, 1.0, 0.1)
          << name_of(dtype) << " recompute " << static_cast<int>(recompute);
      // The states alone are known exactly, so the rest is held to a tenth as well.
      const auto parameters = static_cast<double>(estimate.parameters);
      EXPECT_NEAR(static_cast<double>(estimate.activations) / (peak - parameters), 1.0, 0.1)
          << name_of(dtype) << " recompute " << static_cast<int>(recompute) << ", activations";
    }
  }
}

// In bf16 the tape would add the gradients of two readers after each had been rounded.
TEST_P(Kinds, ReadsItsInputInOneProduct) {
  Transformer model(small_config());
  allocate_random(model, DType::bf16);
  const Attention& attention = model.attention();
  const RopeTable rope = make_rope_table(24, attention.rope_width(), 10000, false, DType::f32);
  const Variable n(Tensor::full({2 * 9, 10}, DType::bf16, 0.5), Leaf::input);
  const Variable y = attention.forward(n, {.batch = 2, .tokens = 9, .position = 0, .rope = &rope});
  int readers = 0;
  std::set<const Node*> seen;
  std::vector<const Node*> open{y.impl()->node.get()};
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    for (const Node::Edge& edge : node->inputs) {
      readers += edge.leaf == n.impl();
      open.push_back(edge.node.get());
    }
  }
  EXPECT_EQ(readers, 1);
}

TEST_P(Kinds, PaddingStaysZeroInGradients) {
  Transformer model(small_config());
  allocate_random(model, DType::f32);
  backward(model.loss(random_tokens(2, 9, 37), random_tokens(2, 9, 37, 101), 1.0));
  // Squares summed over the named tensors are all there is in the flat buffer.
  ParameterStore& store = model.parameters();
  double named = 0, all = 0;
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    for (double g : store.gather(store.gradient(), p, v).to_doubles()) named += std::abs(g) > 0;
  });
  for (double g : store.gradient().to_doubles()) all += std::abs(g) > 0;
  EXPECT_GT(named, 0);
  EXPECT_EQ(named, all);
}

// With a tied head and zero output maps the logit of the current token is near sqrt(C/3); the others, normal with
// variance 1/3, are small beside it.
TEST_P(Kinds, LossAtStepZeroIsSqrtOfWidthOverThree) {
  auto loss_at_step_zero = [](int64_t width, int64_t vocabulary, int64_t head_width) {
    ModelConfig config = small_config();
    config.width = width;
    config.vocab_size = vocabulary;
    config.head_width = head_width;
    config.layers = 1;
    Transformer model(config);
    model.allocate(DType::f32);
    model.parameters().initialise(3);
    const NoGrad no_grad;
    return model.loss(random_tokens(4, 24, vocabulary), random_tokens(4, 24, vocabulary, 101), 1.0).value().item();
  };
  EXPECT_NEAR(loss_at_step_zero(192, 4096, 8), std::log(std::exp(std::sqrt(192 / 3.0)) + 4096 * std::exp(1 / 6.0)),
              0.2);
  EXPECT_NEAR(loss_at_step_zero(768, 50304, 64), 16.1, 0.3);  // of the small models
}

TEST_P(Kinds, GreedyGenerationFollowsTheLogits) {
  Transformer model(small_config());
  allocate_random(model, DType::f32);
  const std::vector<int32_t> prompt{3, 1, 4};
  const SamplingOptions greedy{.temperature = 0};
  std::vector<int32_t> seen;
  const auto made = generate(model, prompt, 12, 37, -1, greedy, [&](int32_t t) {
    seen.push_back(t);
    return true;
  });
  EXPECT_EQ(made, seen);
  std::vector<int32_t> all = prompt;
  for (int32_t token : made) {
    const auto n = static_cast<int64_t>(all.size());
    const std::vector<double> logits = model.logits(Tensor::from<int32_t>({1, n}, all)).to_doubles();
    const auto last = logits.end() - 37;
    EXPECT_EQ(std::max_element(last, logits.end()) - last, token);
    all.push_back(token);
  }
}

INSTANTIATE_TEST_SUITE_P(Every, Kinds, testing::ValuesIn(kAttentionKinds),
                         [](const auto& p) { return std::string(kAttentionKindNames[static_cast<size_t>(p.param)]); });

}  // namespace
}  // namespace t6
