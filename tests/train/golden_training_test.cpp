// Twelve optimizer steps of every attention kind against the authors' model code.
#include <gtest/gtest.h>

#include "support/device.h"
#include "support/golden.h"
#include "train/schedule.h"
#include "train/step.h"

namespace t6::train {
namespace {

class GoldenTraining : public testing::TestWithParam<std::tuple<std::string_view, Accumulation>> {};

TEST_P(GoldenTraining, LossesNormsRatesAndFinalParameters) {
  const auto [kind, accumulation] = GetParam();
  const test::Golden golden{std::string(kind)};
  const std::string group = accumulation == Accumulation::mean ? "train_mean/" : "train_sum/";
  const nlohmann::json& h = golden.hyperparameters();
  OptimizerSection optimizer;
  optimizer.lr = h.at("lr");
  optimizer.min_lr = h.at("min_lr");
  optimizer.betas = {h.at("betas").at(0), h.at("betas").at(1)};
  optimizer.eps = h.at("eps");
  optimizer.weight_decay = h.at("weight_decay");
  optimizer.decay = DecayScope::all;
  optimizer.clip_norm = h.at("grad_clip");
  ScheduleSection schedule;
  schedule.warmup_steps = h.at("warmup");
  schedule.decay_steps = h.at("decay_steps").get<int64_t>() - schedule.warmup_steps;

  Transformer model(golden.model_config(RopeRounding::bf16));
  model.allocate(DType::f32, test::test_device());
  golden.load_parameters(model);
  AdamW adamw(model.parameters(), optimizer);
  const int64_t steps = golden.shape("tokens")[0], micro_steps = golden.shape("tokens")[1];
  const StepOptions options{.micro_steps = micro_steps, .accumulation = accumulation, .clip_norm = optimizer.clip_norm};
  TrainingStep training_step(model, adamw, options);

  std::vector<double> losses, norms, rates;
  for (int64_t step = 0; step < steps; ++step) {
    int64_t micro = 0;
    const double lr = learning_rate(optimizer, schedule, steps, step);
    training_step.run(step + 1, lr, [&] {
      const MicroBatch batch{golden.micro_batch("tokens", step, micro), golden.micro_batch("targets", step, micro)};
      ++micro;
      return batch;
    });
    const StepResult result = training_step.finish();
    losses.push_back(result.loss);
    norms.push_back(result.grad_norm);
    rates.push_back(lr);
  }
  auto expect_each = [&](const std::vector<double>& got, const std::string& name, double bound) {
    const std::vector<double> expected = golden.values(group + name);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_NEAR(got[i], expected[i], bound * std::max(1e-12, std::abs(expected[i]))) << name << " of step " << i;
    }
  };
  expect_each(rates, "lr", 1e-12);
  expect_each(losses, "loss", 1e-4);
  expect_each(norms, "grad_norm", 1e-4);
  ParameterStore& store = model.parameters();
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    EXPECT_LE(
        test::relative_error(store.gather(store.master(), p, v).to_doubles(), golden.values(group + "final/" + v.name)),
        1e-3)
        << v.name;
  });
}

INSTANTIATE_TEST_SUITE_P(EveryKind, GoldenTraining,
                         testing::Combine(testing::ValuesIn(test::kGoldenKinds),
                                          testing::Values(Accumulation::mean, Accumulation::sum)),
                         [](const auto& p) {
                           return std::string(std::get<0>(p.param)) +
                                  (std::get<1>(p.param) == Accumulation::mean ? "_mean" : "_sum");
                         });

}  // namespace
}  // namespace t6::train
