// t6 plan: its answers to what was measured or assumed, and what it refuses.
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace t6::test {
namespace {

using nlohmann::json;

const char* const kSmall = T6_SOURCE_DIR "/configs/t6_mha_small.yaml";

class PlanCommand : public Program {
 protected:
  json plan(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"plan", "--config", kSmall, "--json"});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.code == 0 ? json::parse(outcome.out) : json();
  }
  void expect_refused(std::vector<std::string> arguments, const std::string& message, bool with_config = true) {
    if (with_config) arguments.insert(arguments.begin(), {"--config", kSmall});
    arguments.insert(arguments.begin(), "plan");
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << message << "\n" << outcome.err;
    EXPECT_TRUE(contains(outcome.err, message)) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
};

TEST_F(PlanCommand, OneGpuIsWhatWasMeasured) {
  write("one.yaml",
        "model: {attention: mha, layers: 2, width: 32, heads: 4, head_width: 8, vocab_size: 320, context: 32}\n"
        "train: {global_batch: 4, micro_batch: 4}\n");
  const Outcome bench = run({"bench", "train", "--config", "one.yaml", "--device", "cpu", "--steps", "2", "--json"});
  ASSERT_EQ(bench.code, 0) << bench.err;
  write("one.json", bench.out);
  const double ms = json::parse(bench.out).at("ms_per_step");
  const double rate = json::parse(bench.out).at("tokens_per_second");
  const auto row = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"plan",     "--config", "one.yaml", "--measured",
                                       "one.json", "--json",   "--gpus",   "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return json::parse(outcome.out).at("rows").at(0);
  };
  const json one = row({});
  EXPECT_NEAR(one.at("step_ms").get<double>() / ms, 1, 1e-9);
  EXPECT_NEAR(one.at("tokens_per_second").get<double>() / rate, 1, 1e-9);
  EXPECT_EQ(one.at("efficiency"), 1);
  // Half the micro-batch, two of them: the same products, one update.
  const json two = row({"--micro-batch", "2"});
  EXPECT_EQ(two.at("micro_steps"), 2);
  EXPECT_NEAR(two.at("step_ms").get<double>() / ms, 1, 1e-9);

  // A step of three micro-steps is the time of three, not of one.
  json three = json::parse(bench.out);
  three["micro_steps"] = 3;
  write("one.json", three.dump());
  const double update = three.at("time").at(3).at("share");
  EXPECT_NEAR(row({}).at("step_ms").get<double>() / ms, (1 - update) / 3 + update, 1e-9);
  write("one.json", bench.out);

  // Of another model, or no such document.
  const Outcome other = run({"plan", "--config", kSmall, "--measured", "one.json"});
  EXPECT_EQ(other.code, 2);
  EXPECT_TRUE(contains(other.err, "parameters"));
  for (const auto& [text, got] :
       std::map<std::string, std::string>{{"", "an empty file"},
                                          {"{\"model\": 1}", "JSON of something else"},
                                          {"[]", "JSON of something else"},
                                          {"{", "text that is not one JSON document"},
                                          {"{}{}", "text that is not one JSON document"},
                                          {"train:\n", "text that is not one JSON document"}}) {
    write("bad.json", text);
    const Outcome bad = run({"plan", "--config", "one.yaml", "--measured", "bad.json"});
    EXPECT_EQ(bad.code, 2);
    EXPECT_EQ(bad.err,
              "t6: --measured bad.json: expected what `t6 bench train --config CONFIG --json > FILE` writes, got " +
                  got + "\n");
  }
  EXPECT_EQ(run({"plan", "--config", "one.yaml", "--measured", "none.json"}).code, 6);
}

// mha small has 123,568,128 numbers besides padding: 0.49 GB of gradients, of them the embedding's 154.5 MB in five
// buckets of 32 MiB. 8 GPUs at 475 GB/s add up a byte in 2 x 7/8 / 475e9 s.
TEST_F(PlanCommand, EightGpusByHand) {
  const json answer = plan({"--gpus", "8", "--micro-ms", "40", "--micro-batch", "30"});
  EXPECT_EQ(answer.at("tail_bytes"), 5 * (32 << 20));
  const json row = answer.at("rows").at(0);
  EXPECT_EQ(row.at("micro_steps"), 2);
  const double second_per_byte = 2 * 7.0 / 8 / 475e9, bytes = answer.at("gradient_bytes");
  EXPECT_NEAR(bytes, 4 * 123568128.0, 4e6);
  EXPECT_NEAR(row.at("exchange_ms").get<double>(), 1e3 * bytes * second_per_byte, 1e-9);
  EXPECT_NEAR(row.at("exposed_ms").get<double>(), 1e3 * 5 * (32 << 20) * second_per_byte, 1e-9) << "the tail";
  EXPECT_NEAR(row.at("step_ms").get<double>(), 80 + row.at("exposed_ms").get<double>(), 1e-9);
  EXPECT_FALSE(answer.at("pace").at("assumed"));
}

TEST_F(PlanCommand, WithoutAMeasurementItSaysWhatItAssumes) {
  const json answer = plan({"--mfu", "0.5", "--gpus", "1,8", "--nodes", "1,2"});
  EXPECT_TRUE(answer.at("pace").at("assumed"));
  EXPECT_EQ(answer.at("rows").size(), 4);
  const double flops = answer.at("model").at("flops_per_token_causal");
  EXPECT_NEAR(answer.at("rows").at(0).at("tokens_per_second").get<double>(), 0.5 * 989e12 / flops, 1);
  const Outcome text = run({"plan", "--config", kSmall});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_TRUE(contains(text.out, "ASSUMED, not measured: 40%"));
  EXPECT_TRUE(contains(text.out, "8 ranks: "));
}

// Moments and masters are 12 of 18 bytes a parameter in bf16.
TEST_F(PlanCommand, AShardedOptimizerKeepsItsPart) {
  const auto state = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"--gpus", "8"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return plan(arguments).at("rows").at(0).at("memory_bytes").at("parameters").get<double>();
  };
  EXPECT_NEAR(state({"--zero"}) / state({}), 7.5 / 18, 1e-6);
  // The config says it, too, and the size of buckets.
  EXPECT_EQ(state({"optimizer.zero=true"}), state({"--zero"}));
  EXPECT_EQ(plan({"train.bucket_mb=8"}).at("tail_bytes"), plan({"--bucket-mb", "8"}).at("tail_bytes"));
  EXPECT_NE(plan({"train.bucket_mb=8"}).at("tail_bytes"), plan({}).at("tail_bytes"));
}

TEST_F(PlanCommand, SaysWhereABatchDoesNotDivide) {
  const Outcome text = run({"plan", "--config", kSmall, "--nodes", "8", "--micro-ms", "40"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_TRUE(contains(text.out, "train.global_batch=480 does not divide among them, planned with 512"));
  EXPECT_TRUE(contains(text.out, "95% needs train.global_batch="));
}

TEST_F(PlanCommand, CpuRanksNeedMeasuredNumbers) {
  expect_refused({"--cpu", "--micro-ms", "9"}, "--bus-gbs");
  expect_refused({"--cpu", "--bus-gbs", "4"}, "no datasheet");
  const json answer = plan({"--cpu", "--ranks", "2", "--bus-gbs", "4", "--micro-ms", "9000"});
  EXPECT_EQ(answer.at("overlap"), 0);
  EXPECT_EQ(answer.at("rows").at(0).at("memory_bytes").at("beside"), 0);
  EXPECT_NEAR(answer.at("rows").at(0).at("exposed_ms").get<double>(),
              answer.at("rows").at(0).at("exchange_ms").get<double>(), 1e-9);
}

TEST_F(PlanCommand, ListsTakeCommasAndBlanksAndComeAgain) {
  const auto ranks = [&](const std::vector<std::string>& words) {
    std::vector<int> counts;
    const json answer = plan(words);
    for (const json& row : answer.at("rows")) counts.push_back(row.at("ranks"));
    return counts;
  };
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"--gpus", "1,2,8"},
                                             {"--gpus", "1", "2", "8"},
                                             {"--gpus", "1,", "2,", "8"},
                                             {"--gpus", "1, 2 8"},
                                             {"--gpus=1,2", "8"},
                                             {"--ranks=1", ",", "2", ",8"},
                                             {"--gpus", "1", "2", "--gpus=8"}}) {
    EXPECT_EQ(ranks(words), (std::vector<int>{1, 2, 8})) << words.size();
  }
  // What follows and is not of the list stays what it is.
  EXPECT_EQ(plan({"--gpus", "1", "8", "train.bucket_mb=8", "--nodes", "1", "2"}).at("tail_bytes"),
            plan({"--bucket-mb", "8"}).at("tail_bytes"));
  EXPECT_EQ(run({"plan", "--gpus", "1", "8", kSmall, "--json"}).code, 0);
  write("8", "model: {layers: 0}\n");
  EXPECT_EQ(ranks({"--gpus", "1", "8"}), (std::vector<int>{1, 8})) << "an item, though there is a file of that name";
  EXPECT_EQ(run({"plan", "--config", kSmall, "--gpus", "1", "--", "8"}).code, 2);
  expect_refused({"--gpus", "1,,8"}, "--gpus: expected an integer from 1 to 65536, got ''");
  expect_refused({"--gpus", ","}, "--gpus");
  expect_refused({"--gpus", "1", "two"}, "--gpus: expected an integer from 1 to 65536, got 'two'");
  expect_refused({"--gpus", "--zero"}, "--gpus");
  expect_refused({"--gpus", "0"}, "--gpus: expected an integer from 1");
  expect_refused({"--gpus", "8,"}, "--gpus");
  expect_refused({"--nodes", "two"}, "--nodes");
  expect_refused({"--micro-ms", "-1"}, "--micro-ms: expected a number from 0.001 to");
  expect_refused({"--mfu", "1.5"}, "--mfu: expected a number from 0.0001 to 1");
  // Nothing runs so slowly that its milliseconds fill a line.
  for (const char* option : {"--mfu", "--micro-ms", "--tokens-per-second", "--bus-gbs", "--node-gbs"}) {
    expect_refused({option, "1e-300"}, std::string(option) + ": expected a number from ");
  }
  expect_refused({"--mfu", "0.4", "--micro-ms", "5"}, "expected one of");
  expect_refused({"--card", "abacus"}, "abacus");
  expect_refused({"--micro-batch", "0"}, "--micro-batch");
  expect_refused({"--bus-gbs", "0"}, "--bus-gbs: expected a number from 0.001");
  EXPECT_EQ(run({"plan", "--config", kSmall, "--quiet"}).code, 0);
  expect_refused({"model.layers=0"}, "model.layers");
  expect_refused({}, "expected a config file", /*with_config=*/false);
}

}  // namespace
}  // namespace t6::test
