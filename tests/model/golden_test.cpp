// Every attention kind against the authors' model code.
#include <gtest/gtest.h>

#include "support/device.h"
#include "support/golden.h"

namespace t6 {
namespace {

class GoldenModel : public testing::TestWithParam<std::tuple<std::string_view, RopeRounding>> {};

TEST_P(GoldenModel, LogitsLossAndGradients) {
  const auto [kind, rope] = GetParam();
  const test::Golden golden{std::string(kind)};
  const std::string group = rope == RopeRounding::bf16 ? "rope_bf16/" : "rope_f32/";
  const double value_bound = test::on_cuda() ? 1e-4 : 1e-5;
  Transformer model(golden.model_config(rope));
  model.allocate(DType::f32, test::test_device());
  golden.load_parameters(model);
  const Tensor tokens = golden.micro_batch("tokens", 0, 0), targets = golden.micro_batch("targets", 0, 0);

  EXPECT_LE(test::relative_error(model.logits(tokens).to_doubles(), golden.values(group + "logits")), value_bound);

  const Variable loss = model.loss(tokens, targets, 1.0);
  EXPECT_LE(test::relative_error({loss.value().item()}, golden.values(group + "loss")), value_bound);
  backward(loss);
  ParameterStore& store = model.parameters();
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    const std::vector<double> grad = store.gather(store.gradient(), p, v).to_doubles();
    EXPECT_LE(test::relative_error(grad, golden.values(group + "grads/" + v.name)), 1e-4) << v.name;
  });
}

TEST_P(GoldenModel, LossInBf16) {
  const auto [kind, rope] = GetParam();
  const test::Golden golden{std::string(kind)};
  Transformer model(golden.model_config(rope));
  model.allocate(DType::bf16, test::test_device());
  golden.load_parameters(model);
  const Variable loss = model.loss(golden.micro_batch("tokens", 0, 0), golden.micro_batch("targets", 0, 0), 1.0);
  const std::string group = rope == RopeRounding::bf16 ? "rope_bf16/" : "rope_f32/";
  EXPECT_LE(test::relative_error({loss.value().item()}, golden.values(group + "loss")), 2e-2);
}

// In f64 nothing is left but the files' rounding to f32, and that of their f32 tables.
TEST_P(GoldenModel, F64AgreesToTheFilesRounding) {
  const auto [kind, rope] = GetParam();
  const test::Golden golden{std::string(kind)};
  const std::string group = rope == RopeRounding::bf16 ? "rope_bf16/" : "rope_f32/";
  Transformer model(golden.model_config(rope));
  model.allocate(DType::f64);
  golden.load_parameters(model);
  const Tensor tokens = golden.micro_batch("tokens", 0, 0), targets = golden.micro_batch("targets", 0, 0);
  const Variable loss = model.loss(tokens, targets, 1.0);
  backward(loss);
  ParameterStore& store = model.parameters();
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    const std::vector<double> grad = store.gather(store.gradient(), p, v).to_doubles();
    EXPECT_LE(test::relative_error(grad, golden.values(group + "grads/" + v.name)), 5e-6) << v.name;
  });
}

INSTANTIATE_TEST_SUITE_P(EveryKind, GoldenModel,
                         testing::Combine(testing::ValuesIn(test::kGoldenKinds),
                                          testing::Values(RopeRounding::f32, RopeRounding::bf16)),
                         [](const auto& p) {
                           return std::string(std::get<0>(p.param)) +
                                  (std::get<1>(p.param) == RopeRounding::bf16 ? "_rope_bf16" : "_rope_f32");
                         });

}  // namespace
}  // namespace t6
