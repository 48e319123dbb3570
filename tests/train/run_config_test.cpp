// The run's config: bad ones are refused with position, key and reason; good ones merge, print and read back equal.
#include "train/run_config.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.h"
#include "base/format.h"
#include "model/counts.h"

namespace t6 {
namespace {

namespace fs = std::filesystem;

std::string problems(std::string_view text) {
  try {
    run_config_from_yaml(text, "run.yaml");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "read without a problem";
}

struct BadConfig {
  std::string text;
  std::string message;  // the whole of it after "run.yaml:"
};

const std::vector<BadConfig>& bad_configs() {
  static const std::string kinds = config::join_names(kAttentionKindNames.data(), kAttentionKindNames.size());
  static const std::vector<BadConfig> list{
      // Unknown keys, with the nearest or the right place.
      {"train:\n  stepz: 5\n", "2:3: train.stepz: unknown key; nearest is 'steps'"},
      {"trian:\n  steps: 5\n", "1:1: trian: unknown key; nearest is 'train'"},
      {"train:\n  lr: 1e-3\n", "2:3: train.lr: unknown key here; did you mean 'optimizer.lr'"},
      {"train: {seed: 4}\n", "1:9: train.seed: unknown key here; did you mean 'run.seed'"},
      {"lr: 1e-3\n", "1:1: lr: unknown key here; did you mean 'optimizer.lr'"},
      {"optimizer: {beta: 0.9}\n", "1:13: optimizer.beta: unknown key; nearest is 'betas'"},
      {"optimizer: {momentum: 0.9}\n",
       "1:13: optimizer.momentum: unknown key; expected lr, min_lr, betas, eps, weight_decay, decay, clip_norm or "
       "zero"},
      {"schedule: {warmup: 10}\n", "1:12: schedule.warmup: unknown key; expected kind, warmup_steps or decay_steps"},
      {"schedule: {warmup_step: 10}\n", "1:12: schedule.warmup_step: unknown key; nearest is 'warmup_steps'"},
      {"evaluation:\n  batches: 10\n", "2:3: evaluation.batches: unknown key; expected every, windows or sampling"},
      {"data: {every: 5}\n",
       "1:8: data.every: unknown key here; did you mean 'evaluation.every' or 'scores.every' or 'checkpoint.every' or "
       "'logging.every'"},
      {"checkpoint: {keeplast: 3}\n", "1:14: checkpoint.keeplast: unknown key; nearest is 'keep_last'"},
      {"logging: {tensorbaord: true}\n", "1:11: logging.tensorbaord: unknown key; nearest is 'tensorboard'"},
      {"model:\n  n_head: 5\n",
       "2:3: model.n_head: unknown key; expected attention, layers, width, heads, head_width, ff_width, vocab_size, "
       "context, rope_theta, rope_table, norm_eps, init, " +
           kinds},
      {"Train: {steps: 5}\n", "1:1: Train: unknown key; nearest is 'train'"},
      {"\"\": 5\n",
       "1:1: '': unknown key; expected preset, run, model, data, train, optimizer, schedule, evaluation, scores, "
       "spikes, checkpoint or "
       "logging"},
      // Options of another attention kind.
      {"model:\n  attention: mha\n  tpa:\n    rank_q: 6\n",
       "4:5: model.tpa.rank_q: is valid only under model.attention: tpa"},
      {"model:\n  attention: gqa\n  heads: 22\n  mla: {kv_rank: 5}\n",
       "4:9: model.mla.kv_rank: is valid only under model.attention: mla"},
      {"model:\n  attention: tpa\n  tpa_kvonly: {rank_k: 3}\n",
       "3:16: model.tpa_kvonly.rank_k: is valid only under model.attention: tpa_kvonly"},
      {"model: {attention: mqa, gqa: {}}\n", "1:25: model.gqa: is valid only under model.attention: gqa"},
      {"model:\n  rank_q: 6\n",
       "2:3: model.rank_q: unknown key here; did you mean 'model.tpa.rank_q' (valid under attention: tpa)"},
      {"model: {attention: mha, mha: {kv_heads: 2}}\n",
       "1:31: model.mha.kv_heads: unknown key here; did you mean 'model.gqa.kv_heads' (valid under attention: gqa)"},
      {"model:\n  tpa: {rank_x: 2}\n", "2:9: model.tpa.rank_x: unknown key; nearest is 'rank_q'"},
      {"model: {attention: tpakvonly}\n",
       "1:20: model.attention: expected " + kinds + ", got 'tpakvonly'; nearest is 'tpa_kvonly'"},
      {"model: {attention: flash, mla: {q_rank: 4}}\n", "1:20: model.attention: expected " + kinds + ", got 'flash'"},
      // Integers.
      {"train: {steps: 0}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got '0'"},
      {"train: {steps: -5}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got '-5'"},
      {"train: {steps: 1e10}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got '1e10'"},
      {"train: {steps: 10.5}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got '10.5'"},
      {"train: {steps: 10.0}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got '10.0'"},
      {"train: {steps: 1.5e0}\n",
       "1:16: train.steps: expected an integer in [1, 1000000000], got '1.5e0'; it has a fraction"},
      {"train: {steps: 99999999999999999999}\n",
       "1:16: train.steps: expected an integer in [1, 1000000000], got '99999999999999999999'; it does not fit 64 "
       "bits"},
      {"train: {steps: many}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got 'many'"},
      {"train: {steps: \"100\"}\n",
       "1:16: train.steps: expected an integer in [1, 1000000000], got the text '100'; write it without quotes"},
      {"train:\n  steps:\n", "2:3: train.steps: expected an integer in [1, 1000000000], got nothing"},
      {"train: {steps: [5]}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got a list"},
      {"train: {steps: {n: 5}}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got a section"},
      {"train: {steps: true}\n", "1:16: train.steps: expected an integer in [1, 1000000000], got 'true'"},
      {"run: {seed: 010}\n",
       "1:13: run.seed: expected an integer in [0, 9000000000000000], got '010'; a leading zero could mean octal; "
       "write it "
       "without"},
      {"run: {seed: 0xff}\n",
       "1:13: run.seed: expected an integer in [0, 9000000000000000], got '0xff'; write it in decimal"},
      {"run: {threads: -1}\n", "1:16: run.threads: expected an integer in [0, 4096], got '-1'"},
      {"model: {layers: 0}\n", "1:17: model.layers: expected an integer in [1, 1024], got '0'"},
      {"model: {width: 65537}\n", "1:16: model.width: expected an integer in [1, 65536], got '65537'"},
      {"model: {heads: 0}\n", "1:16: model.heads: expected an integer in [1, 4096], got '0'"},
      {"model: {vocab_size: 1}\n", "1:21: model.vocab_size: expected an integer in [2, 16777216], got '1'"},
      {"model: {context: 0}\n", "1:18: model.context: expected an integer in [1, 1048576], got '0'"},
      {"model: {tpa: {rank_k: 0}}\n", "1:23: model.tpa.rank_k: expected an integer in [1, 1024], got '0'"},
      {"checkpoint: {keep_last: 0}\n", "1:25: checkpoint.keep_last: expected an integer in [1, 1000000], got '0'"},
      {"logging: {every: 0}\n", "1:18: logging.every: expected an integer in [1, 1000000000], got '0'"},
      {"data: {prefetch: 0}\n", "1:18: data.prefetch: expected an integer in [1, 1024], got '0'"},
      // Numbers.
      {"optimizer: {lr: 0}\n", "1:17: optimizer.lr: expected a number in (0, 10], got '0'"},
      {"optimizer: {lr: .nan}\n", "1:17: optimizer.lr: expected a number in (0, 10], got '.nan'"},
      {"optimizer: {lr: inf}\n", "1:17: optimizer.lr: expected a number in (0, 10], got 'inf'"},
      {"optimizer: {lr: 1e999}\n",
       "1:17: optimizer.lr: expected a number in (0, 10], got '1e999'; it does not fit a 64-bit floating-point number"},
      {"optimizer: {lr: 3e-4 # peak\n   5}\n", "2:4: not valid YAML: end of map flow not found"},
      {"optimizer: {lr: \"6e-4\"}\n",
       "1:17: optimizer.lr: expected a number in (0, 10], got the text '6e-4'; write it without quotes"},
      {"optimizer: {lr: 6e-4x}\n", "1:17: optimizer.lr: expected a number in (0, 10], got '6e-4x'"},
      {"optimizer: {weight_decay: -0.1}\n", "1:27: optimizer.weight_decay: expected a number in [0, 10], got '-0.1'"},
      {"optimizer: {betas: [0.9, 1.0]}\n", "1:26: optimizer.betas: expected a number in [0, 1), got '1.0'"},
      {"optimizer: {betas: [0.9]}\n", "1:20: optimizer.betas: expected a list of exactly 2 values, got 1"},
      {"optimizer: {betas: 0.9}\n",
       "1:20: optimizer.betas: expected a list [a, b, ...] of: number in [0, 1), got '0.9'"},
      {"optimizer: {eps: 0}\n", "1:18: optimizer.eps: expected a number in (0, 1], got '0'"},
      {"model: {rope_theta: 0.5}\n", "1:21: model.rope_theta: expected a number in [1, 1000000000000], got '0.5'"},
      {"model: {norm_eps: 0}\n", "1:19: model.norm_eps: expected a number in (0, 0.1], got '0'"},
      {"train: {target_loss: 0}\n", "1:22: train.target_loss: expected a number > 0, got '0'"},
      // Words, truth values, texts, lists, durations.
      {"preset: offical\n", "1:9: preset: expected default or official, got 'offical'; nearest is 'official'"},
      {"run: {device: gpu}\n", "1:15: run.device: expected auto, cpu or cuda, got 'gpu'; nearest is 'cuda'"},
      {"train: {accumulation: avg}\n", "1:23: train.accumulation: expected mean or sum, got 'avg'"},
      {"train: {recompute: [block]}\n", "1:20: train.recompute: expected none, qkv, attention or block, got a list"},
      {"data: {sampling: shufled}\n",
       "1:18: data.sampling: expected shuffled or random_window, got 'shufled'; nearest is 'shuffled'"},
      {"schedule: {kind: WSD}\n",
       "1:18: schedule.kind: expected cosine, linear, constant or wsd, got 'WSD'; nearest is 'wsd'"},
      {"train: {precision: fp16}\n", "1:20: train.precision: expected f32 or bf16, got 'fp16'; nearest is 'bf16'"},
      {"train: {precision: float32}\n", "1:20: train.precision: expected f32 or bf16, got 'float32'; nearest is 'f32'"},
      {"train: {precision: f64}\n", "1:20: train.precision: expected f32 or bf16, got 'f64'"},
      {"checkpoint: {resume: yes}\n", "1:22: checkpoint.resume: expected auto, never or require, got 'yes'"},
      {"model: {init: xavier}\n", "1:15: model.init: expected official or paper, got 'xavier'"},
      {"model: {rope_table: f16}\n", "1:21: model.rope_table: expected f32 or bf16, got 'f16'; nearest is 'bf16'"},
      {"logging: {tensorboard: yes}\n", "1:24: logging.tensorboard: expected true or false, got 'yes'"},
      {"logging: {tensorboard: \"true\"}\n",
       "1:24: logging.tensorboard: expected true or false, got the text 'true'; write it without quotes"},
      {"run: {dir: \"\"}\n", "1:12: run.dir: expected a text that is not empty, got the text ''"},
      {"run: {dir: ~}\n", "1:7: run.dir: expected a text, got nothing"},
      {"run:\n  dir: |\n    a\n    b\n",
       "2:8: run.dir: expected a text of one line without control characters, got the text 'a\\x0ab\\x0a'"},
      {"data: {train: {a: b}}\n", "1:15: data.train: expected a list [a, b, ...] of: text, got a section"},
      {"data: {train: [a, [b]]}\n", "1:19: data.train: expected a text, got a list"},
      {"data:\n  train:\n    - a.bin\n    -\n", "5:1: data.train: expected a text, got nothing"},
      {"train: {max_runtime: 2 hours}\n",
       "1:22: train.max_runtime: expected a duration such as 90s, 2h30m or a number of seconds, got '2 hours'"},
      {"train: {max_runtime: 30m2h}\n",
       "1:22: train.max_runtime: expected a duration such as 90s, 2h30m or a number of seconds, got '30m2h'"},
      {"train: {max_runtime: 0}\n", "1:22: train.max_runtime: expected a duration >= 1 seconds, got '0'"},
      // Structure.
      {"train: 5\n", "1:8: train: expected a section of keys and values, got '5'"},
      {"train: [steps, 5]\n", "1:8: train: expected a section of keys and values, got a list"},
      {"- train\n", "1:1: expected sections such as 'train:' with keys below them"},
      {"train:\n  steps: 5000\n  steps: 6\n", "3:3: duplicate key 'steps'"},
      {"train: {steps: 5000}\nrun: {}\ntrain: {steps: 5000}\n", "3:1: duplicate key 'train'"},
      {"train: &t {steps: 5000}\n", "1:8: anchors (&name) are not allowed; write the value out"},
      {"train: {steps: !!int 5000}\n", "1:16: tags (!name) are not allowed; write the value alone"},
      {"train: {steps: 5000}\n---\nrun: {seed: 1}\n", "2:1: expected one document, but a second one begins here"},
      {"train:\n  steps: 5000\n   micro_batch: 4\n", "3:15: not valid YAML: illegal map value"},
      {"train: {steps: 5000\n", "2:1: not valid YAML: end of map flow not found"},
      {"train:\n\tsteps: 5000\n", "2:7: not valid YAML: illegal map value"},
      // Rules across keys.
      {"train:\n  global_batch: 100\n  micro_batch: 24\n",
       "2:17: train.global_batch: expected train.global_batch to be a multiple of train.micro_batch, got 100 and 24"},
      {"train:\n  micro_batch: 7\n",
       "2:16: train.micro_batch: expected train.global_batch to be a multiple of train.micro_batch, got 480 and 7"},
      {"model:\n  attention: gqa\n  heads: 9\n  gqa:\n    kv_heads: 2\n",
       "5:15: model.gqa.kv_heads: expected a number of key/value heads that divides model.heads, got kv_heads 2 and "
       "heads 9"},
      {"model:\n  attention: gqa\n  heads: 9\n",
       "3:10: model.heads: expected a number of key/value heads that divides model.heads, got kv_heads 2 and heads 9"},
      {"model: {head_width: 63}\n", "1:21: model.head_width: expected an even width for RoPE, got 63"},
      {"model: {attention: mla, mla: {rope_width: 31}}\n",
       "1:43: model.mla.rope_width: expected an even width for RoPE, got 31"},
      {"model: {attention: mha}\ntrain: {recompute: qkv}\n",
       "2:20: train.recompute: expected train.recompute none, attention or block under model.attention mha, got qkv, "
       "which makes queries, keys and values again of their factors, as tpa and tpa_kvonly have them"},
      {"optimizer: {lr: 1e-5}\n",
       "1:17: optimizer.lr: expected optimizer.min_lr to be at most optimizer.lr, got 3e-05 and 1e-05"},
      {"train: {steps: 100}\n",
       "1:16: train.steps: expected schedule.warmup_steps to be at most train.steps, got 2000 and 100"},
      {"schedule: {decay_steps: 99000}\n",
       "1:25: schedule.decay_steps: expected warm-up and decay to fit in train.steps, got 2000 + 99000 in 100000 "
       "steps"},
      {"train: {steps: 1000}\nschedule: {kind: wsd, warmup_steps: 950}\n",
       "2:37: schedule.warmup_steps: expected warm-up and decay to fit in train.steps, got 950 + 100 in 1000 steps"},
      {"schedule: {kind: constant, decay_steps: 5}\n",
       "1:41: schedule.decay_steps: expected no decay_steps under schedule.kind: constant, got 5; remove it or choose "
       "wsd"},
      {"evaluation: {sampling: random, windows: 0}\n",
       "1:41: evaluation.windows: expected a number of windows above 0 under evaluation.sampling: random"},
      {"checkpoint: {every: 300, keep_every: 1000}\n",
       "1:38: checkpoint.keep_every: expected checkpoint.keep_every to be a multiple of checkpoint.every, got 1000 and "
       "300"},
  };
  return list;
}

TEST(RunConfig, BadConfigsNamePositionKeyAndReason) {
  ASSERT_GE(bad_configs().size(), 110u);
  for (const BadConfig& bad : bad_configs()) EXPECT_EQ(problems(bad.text), "run.yaml:" + bad.message) << bad.text;
}

TEST(RunConfig, AllProblemsAtOnce) {
  EXPECT_EQ(
      problems("train:\n  stepz: 5\n  micro_batch: 7\nmodel:\n  attention: mha\n  tpa: {rank_q: 3}\n"
               "optimizer: {lr: fast, min_lr: 5}\ntrain: {}\n"),
      "run.yaml:2:3: train.stepz: unknown key; nearest is 'steps'\n"
      "run.yaml:3:16: train.micro_batch: expected train.global_batch to be a multiple of train.micro_batch, got 480 "
      "and 7\n"
      "run.yaml:6:9: model.tpa.rank_q: is valid only under model.attention: tpa\n"
      "run.yaml:7:17: optimizer.lr: expected a number in (0, 10], got 'fast'\n"
      "run.yaml:8:1: duplicate key 'train'");
}

TEST(RunConfig, ProblemsOfSeveralSourcesKeepTheirNames) {
  const fs::path dir = fs::path(testing::TempDir()) / "t6_run_config_sources";
  fs::create_directories(dir);
  std::ofstream(dir / "a.yaml") << "train: {steps: x}\n";
  std::ofstream(dir / "b.yaml") << "run:\n  sede: 5\n";
  const std::vector<fs::path> files{dir / "a.yaml", dir / "b.yaml", dir / "missing.yaml"};
  const std::vector<std::string> overrides{"logging.every=never", "model.attention=mha", "model.tpa.rank_q=3"};
  try {
    load_run_config(files, overrides);
    ADD_FAILURE() << "expected problems";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    const std::string a = files[0].string(), b = files[1].string(), c = files[2].string();
    EXPECT_EQ(std::string(error.what()),
              a + ":1:16: train.steps: expected an integer in [1, 1000000000], got 'x'\n" + b +
                  ":2:3: run.sede: unknown key; nearest is 'seed'\n" + c + ": cannot open " + c +
                  ": No such file or directory\n"
                  "override 'logging.every=never': logging.every: expected an integer in [1, 1000000000], got 'never'\n"
                  "override 'model.tpa.rank_q=3': model.tpa.rank_q: is valid only under model.attention: tpa");
  }
  fs::remove_all(dir);
}

TEST(RunConfig, FilesMergeInOrderThenOverrides) {
  const fs::path dir = fs::path(testing::TempDir()) / "t6_run_config_merge";
  fs::create_directories(dir);
  std::ofstream(dir / "base.yaml") << "train: {steps: 5000, micro_batch: 8}\ndata: {train: [a, b]}\n";
  std::ofstream(dir / "more.yaml") << "train: {steps: 6000, precision: bf16}\ndata: {train: [c]}\n";
  const std::vector<fs::path> files{dir / "base.yaml", dir / "more.yaml"};
  RunConfig config = load_run_config(files, {});
  EXPECT_EQ(config.train.steps, 6000);
  EXPECT_EQ(config.train.micro_batch, 8);
  EXPECT_EQ(config.train.precision, Precision::bf16);
  EXPECT_EQ(config.data.train, std::vector<std::string>{"c"});
  EXPECT_EQ(config.run.dir, "runs/base-more");
  const std::vector<std::string> overrides{"train.steps=7000", "run.dir=here", "train.max_runtime=23h30m",
                                           "data.train=data/*.bin", "train.steps=8_000"};
  config = load_run_config(files, overrides);
  EXPECT_EQ(config.train.steps, 8000);
  EXPECT_EQ(config.run.dir, "here");
  EXPECT_EQ(config.train.max_runtime, std::chrono::minutes(23 * 60 + 30));
  EXPECT_EQ(config.data.train, std::vector<std::string>{"data/*.bin"});
  EXPECT_EQ(load_run_config({}, {}), default_config());
  fs::remove_all(dir);
}

TEST(RunConfig, PresetOfficialSelectsTheAuthorsProtocolTogether) {
  EXPECT_EQ(run_config_from_yaml("preset: official\n", "x"), official_config());
  EXPECT_EQ(official_config().optimizer.decay, DecayScope::all);
  const RunConfig official = run_config_from_yaml(
      "train: {micro_batch: 20}\noptimizer: {decay: matrices}\npreset: official\nmodel: {heads: 47}\n", "x");
  EXPECT_EQ(official.train.accumulation, Accumulation::sum);
  EXPECT_EQ(official.data.sampling, data::SampleOrder::random_window);
  EXPECT_EQ(official.model.rope_table, RopeRounding::bf16);
  EXPECT_EQ(official.evaluation.sampling, EvaluationSampling::random);
  EXPECT_EQ(official.evaluation.windows, 200 * 20);
  EXPECT_EQ(official.optimizer.decay, DecayScope::matrices);  // written keys keep their values
  EXPECT_EQ(run_config_from_yaml("preset: official\nevaluation: {windows: 6}\n", "x").evaluation.windows, 6);
  const RunConfig corrected = run_config_from_yaml("preset: default\n", "x");
  EXPECT_EQ(corrected, default_config());
  EXPECT_EQ(corrected.train.accumulation, Accumulation::mean);
  EXPECT_EQ(corrected.data.sampling, data::SampleOrder::shuffled);
  EXPECT_EQ(corrected.model.rope_table, RopeRounding::f32);
  EXPECT_EQ(corrected.optimizer.decay, DecayScope::matrices);
  EXPECT_EQ(corrected.evaluation.sampling, EvaluationSampling::fixed);
}

TEST(RunConfig, PrintedConfigReadsBackEqual) {
  for (const AttentionKind kind : kAttentionKinds) {
    for (RunConfig config : {default_config(), official_config()}) {
      config.model.attention = default_options(kind);
      config.train.max_runtime = std::chrono::seconds(3725);
      config.train.target_loss = 3.28;
      config.data.train = {"data/*.bin", "-odd name, with: marks", "null"};
      const std::string yaml = to_yaml(config);
      EXPECT_EQ(run_config_from_yaml(yaml, "resolved.yaml"), config) << yaml;
      EXPECT_EQ(to_yaml(run_config_from_yaml(yaml, "resolved.yaml")), yaml);
      EXPECT_EQ(model_config_from_yaml(to_yaml(config.model), "model.yaml"), config.model);
    }
  }
}

TEST(RunConfig, EveryKeyIsStatedInResolvedYamlAndHelp) {
  const std::string yaml = to_yaml(default_config()), help = config_help();
  int keys = 0;
  for (const config::CatalogueEntry& entry : config::catalogue(default_config())) {
    if (entry.is_section) continue;
    ++keys;
    EXPECT_FALSE(entry.doc.empty()) << entry.path();
    EXPECT_NE(help.find("  " + entry.name), std::string::npos) << entry.path();
    EXPECT_NE(help.find(entry.doc), std::string::npos) << entry.path();
    if (!entry.only_under.empty()) continue;
    EXPECT_NE(yaml.find(entry.name + ": "), std::string::npos) << entry.path();
  }
  EXPECT_GT(keys, 50);
  for (const auto line :
       {"  model.rope_table: bf16\n", "  data.sampling: random_window\n", "  train.accumulation: sum\n",
        "  optimizer.decay: all\n", "  evaluation.sampling: random\n"}) {
    EXPECT_NE(help.find(line), std::string::npos) << line << help;
  }
}

TEST(RunConfig, DecayLengthFollowsTheKind) {
  ScheduleSection s;
  s.warmup_steps = 100;
  EXPECT_EQ(s.decay_length(1000), 900);
  s.kind = ScheduleKind::wsd;
  EXPECT_EQ(s.decay_length(1000), 100);
  s.decay_steps = 30;
  EXPECT_EQ(s.decay_length(1000), 30);
  s.kind = ScheduleKind::constant;
  EXPECT_EQ(s.decay_length(1000), 0);
}

TEST(RunConfig, TrainingNeedsDataAndABatchThatDivides) {
  RunConfig config = default_config();
  const auto message = [&](int64_t world) {
    try {
      check_trainable(config, world);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message(1).find("data.train: expected globs"), std::string::npos);
  config.data.train = {"a"};
  EXPECT_EQ(message(4), "");
  EXPECT_EQ(
      message(8),
      "train.global_batch: expected a multiple of train.micro_batch x ranks = 24 x 8, got 480; choose a micro_batch "
      "that divides 60");
  EXPECT_EQ(
      message(7),
      "train.global_batch: expected a multiple of train.micro_batch x ranks = 24 x 7, got 480; choose a global_batch "
      "that is a multiple of 7");
}

// What is published of every size: layers, width, rates, windows a GPU and micro-step.
struct ShippedSize {
  std::string_view name;
  int64_t layers, width, ff_width;
  double lr, min_lr;
  int64_t micro_batch;
};
constexpr ShippedSize kShippedSizes[] = {{"small", 12, 768, 2048, 6e-4, 3e-5, 24},
                                         {"medium", 24, 1024, 2730, 6e-4, 3e-5, 20},
                                         {"large", 36, 1280, 3413, 2e-4, 1e-5, 15},
                                         {"xl", 48, 1600, 4266, 1e-4, 1e-5, 6}};
// And of every kind, by size.
struct ShippedKind {
  std::string_view name;
  int64_t heads[4], parameters[4];
};
constexpr ShippedKind kShippedKinds[] = {
    {"mha", {12, 16, 20, 25}, {123568128, 353452032, 772131840, 1554892800}},
    {"mqa", {23, 31, 39, 49}, {123568128, 353452032, 772131840, 1554892800}},
    {"gqa", {22, 30, 38, 48}, {123568128, 353452032, 772131840, 1554892800}},
    {"mla", {13, 23, 34, 49}, {123085824, 353863680, 773634048, 1558370304}},
    {"tpa", {34, 47, 61, 78}, {124342272, 353992704, 773698560, 1555814400}},
    {"tpa_kvonly", {22, 29, 37, 47}, {124379136, 353157120, 773053440, 1559500800}}};

TEST(RunConfig, ShippedConfigsAreThePublishedModels) {
  for (size_t i = 0; i < std::size(kShippedSizes); ++i) {
    for (const ShippedKind& kind : kShippedKinds) {
      const ShippedSize& size = kShippedSizes[i];
      const std::string name = fmt::format("t6_{}_{}.yaml", kind.name, size.name);
      const std::vector<fs::path> files{fs::path(T6_SOURCE_DIR) / "configs" / name};
      const RunConfig config = load_run_config(files, {});
      EXPECT_EQ(count(Transformer(config.model)).parameters, kind.parameters[i]) << name;
      EXPECT_EQ(config.model.layers, size.layers) << name;
      EXPECT_EQ(config.model.width, size.width) << name;
      EXPECT_EQ(config.model.feed_forward_width(), size.ff_width) << name;
      EXPECT_EQ(config.model.heads, kind.heads[i]) << name;
      EXPECT_EQ(config.model.head_width, 64) << name;
      EXPECT_EQ(config.optimizer.lr, size.lr) << name;
      EXPECT_EQ(config.optimizer.min_lr, size.min_lr) << name;
      EXPECT_EQ(config.train.micro_batch, size.micro_batch) << name;
      // The comment that opens the file says the same.
      std::ifstream stream(files[0]);
      std::string first_line;
      std::getline(stream, first_line);
      EXPECT_NE(first_line.find(format_grouped(static_cast<uint64_t>(kind.parameters[i])) + " parameters"),
                std::string::npos)
          << first_line;
    }
  }
}

// CONTRIBUTING's way of comparing kinds.
TEST(RunConfig, TheDemoTakesEveryAttentionKind) {
  const std::vector<fs::path> files{fs::path(T6_SOURCE_DIR) / "configs" / "demo_tpa.yaml"};
  for (const std::string_view kind : kAttentionKindNames) {
    const std::vector<std::string> overrides{fmt::format("model.attention={}", kind)};
    const RunConfig config = load_run_config(files, overrides);
    EXPECT_EQ(config.model.kind_name(), kind);
    EXPECT_NO_THROW(check_trainable(config, 1)) << kind;
    EXPECT_GT(count(Transformer(config.model)).parameters, 0) << kind;
  }
}

TEST(RunConfig, AllShippedConfigsLoad) {
  std::set<std::string> found;
  for (const auto& entry : fs::directory_iterator(fs::path(T6_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    const std::vector<fs::path> files{entry.path()};
    const RunConfig config = load_run_config(files, {});
    EXPECT_NO_THROW(check_trainable(config, 1)) << entry.path();
    const std::string name = entry.path().stem().string();
    EXPECT_EQ(config.run.dir, "runs/" + name);
    EXPECT_EQ(run_config_from_yaml(to_yaml(config), name), config);
    std::string first_line;
    std::ifstream stream(entry.path());
    std::getline(stream, first_line);
    EXPECT_EQ(first_line.substr(0, 2), "# ") << entry.path();
    found.insert(name);
    if (!name.starts_with("t6_")) continue;
    EXPECT_TRUE(name.starts_with("t6_" + std::string(config.model.kind_name()) + "_")) << name;
    EXPECT_EQ(config.train.global_batch * config.model.context, 491520);
    EXPECT_EQ(config.train.steps, 100000);
    EXPECT_EQ(config.schedule.warmup_steps, 2000);
    EXPECT_EQ(config.model.vocab_size, 50304);
  }
  for (const std::string_view kind : kAttentionKindNames) {
    for (const std::string_view size : {"small", "medium", "large", "xl"}) {
      EXPECT_TRUE(found.contains(fmt::format("t6_{}_{}", kind, size))) << kind << size;
    }
  }
  EXPECT_TRUE(found.contains("demo_tpa") && found.contains("demo_mha"));
}

// A bad config is refused long before anything large is done.
TEST(RunConfig, ABadConfigIsRefusedQuickly) {
  const auto begin = std::chrono::steady_clock::now();
  for (const BadConfig& bad : bad_configs()) problems(bad.text);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took.count() / static_cast<double>(bad_configs().size()), 0.2);
}

}  // namespace
}  // namespace t6
