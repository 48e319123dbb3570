// R17, R18 and the other mistakes of users, through the program: one clear message, the right exit code, nothing lost.
#include <algorithm>
#include <functional>
#include <regex>

#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::bin16;
using data::testing::bin32;
using data::testing::bin_bytes;
using data::testing::read_file;
using data::testing::some_ids;
using data::testing::write_file;

class RunBadInput : public RunTest {
 protected:
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder())) {
      const std::string name = fs::relative(entry.path(), folder()).string();
      if (name != kStandardOutput && name != kStandardError) names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  // A refused run leaves no checkpoint and no loss log.
  void expect_nothing_trained(const std::string& run) const {
    EXPECT_EQ(newest_step(run), -1);
    EXPECT_FALSE(fs::exists(run_folder(run) / "metrics.jsonl"));
    EXPECT_FALSE(fs::exists(run_folder(run) / "resolved.yaml"));
  }
};

struct BadConfig {
  std::string yaml;    // written behind the good config
  std::string reason;  // part of the message
};

// Each makes one mistake in a config that is right otherwise.
const std::vector<BadConfig>& bad_configs() {
  static const std::vector<BadConfig> all = {
      // Names.
      {"trian: {steps: 5}", "train"},
      {"train: {stpes: 5}", "steps"},
      {"train: {Steps: 5}", "steps"},
      {"optimizer: {learning_rate: 1e-3}", "learning_rate"},
      {"optimiser: {lr: 1e-3}", "optimizer"},
      {"model: {layer: 2}", "layers"},
      {"model: {lr: 2}", "optimizer.lr"},
      {"steps: 5", "train.steps"},
      {"run: {directory: x}", "directory"},
      {"data: {tokeniser: x}", "tokenizer"},
      {"checkpoint: {keep: 3}", "keep"},
      {"logging: {tensorbord: true}", "tensorboard"},
      {"schedule: {warmup: 3}", "warmup"},
      {"evaluation: {window: 3}", "windows"},
      {"include: other.yaml", "include"},
      // Types.
      {"train: {steps: many}", "train.steps"},
      {"train: {steps: 1.5}", "train.steps"},
      {"train: {steps: true}", "train.steps"},
      {"train: {steps: [5]}", "train.steps"},
      {"train: {steps: {a: 5}}", "train.steps"},
      {"train: {steps: }", "train.steps"},
      {"train: {steps: 010}", "train.steps"},
      {"train: {steps: 0x10}", "train.steps"},
      {"train: {steps: 5 apples}", "train.steps"},
      {"optimizer: {lr: .nan}", "optimizer.lr"},
      {"optimizer: {lr: .inf}", "optimizer.lr"},
      {"optimizer: {lr: fast}", "optimizer.lr"},
      {"optimizer: {betas: 0.9}", "optimizer.betas"},
      {"optimizer: {betas: [0.9]}", "optimizer.betas"},
      {"optimizer: {betas: [0.9, 0.95, 0.99]}", "optimizer.betas"},
      {"optimizer: {betas: [0.9, x]}", "optimizer.betas"},
      {"logging: {tensorboard: maybe}", "logging.tensorboard"},
      {"train: {max_runtime: soon}", "train.max_runtime"},
      {"train: {max_runtime: -5s}", "train.max_runtime"},
      {"train: 5", "train"},
      {"model: [1, 2]", "model"},
      {"train: null_section_with_text", "train"},
      // Ranges.
      {"train: {steps: 0}", "train.steps"},
      {"train: {steps: -5}", "train.steps"},
      {"train: {steps: 99999999999}", "train.steps"},
      {"train: {steps: 99999999999999999999999}", "train.steps"},
      {"train: {global_batch: 0}", "train.global_batch"},
      {"train: {micro_batch: 0}", "train.micro_batch"},
      {"train: {micro_batch: 100000}", "train.micro_batch"},
      {"train: {max_runtime: 0s}", "train.max_runtime"},
      {"train: {target_loss: 0}", "train.target_loss"},
      {"train: {target_loss: -1}", "train.target_loss"},
      {"optimizer: {lr: 0}", "optimizer.lr"},
      {"optimizer: {lr: -1e-3}", "optimizer.lr"},
      {"optimizer: {lr: 11}", "optimizer.lr"},
      {"optimizer: {min_lr: -1}", "optimizer.min_lr"},
      {"optimizer: {betas: [1.0, 0.95]}", "optimizer.betas"},
      {"optimizer: {betas: [-0.1, 0.95]}", "optimizer.betas"},
      {"optimizer: {eps: 0}", "optimizer.eps"},
      {"optimizer: {weight_decay: -0.1}", "optimizer.weight_decay"},
      {"optimizer: {clip_norm: -1}", "optimizer.clip_norm"},
      {"schedule: {warmup_steps: -1}", "schedule.warmup_steps"},
      {"evaluation: {every: -1}", "evaluation.every"},
      {"checkpoint: {every: -1}", "checkpoint.every"},
      {"checkpoint: {keep_last: 0}", "checkpoint.keep_last"},
      {"logging: {every: 0}", "logging.every"},
      {"data: {prefetch: 0}", "data.prefetch"},
      {"data: {readers: 65}", "data.readers"},
      {"run: {seed: -1}", "run.seed"},
      {"run: {threads: -1}", "run.threads"},
      {"model: {layers: 0}", "model.layers"},
      {"model: {layers: 1000000}", "model.layers"},
      {"model: {width: 0}", "model.width"},
      {"model: {vocab_size: 1}", "model.vocab_size"},
      {"model: {context: 0}", "model.context"},
      {"model: {head_width: 7}", "model.head_width"},
      {"model: {norm_eps: 0}", "model.norm_eps"},
      {"model: {tpa: {rank_q: 0}}", "model.tpa.rank_q"},
      // Choices.
      {"model: {attention: flash}", "model.attention"},
      {"model: {attention: TPA}", "model.attention"},
      {"model: {rope_table: f64}", "model.rope_table"},
      {"model: {init: random}", "model.init"},
      {"train: {precision: fp16}", "train.precision"},
      {"train: {accumulation: average}", "train.accumulation"},
      {"train: {recompute: all}", "train.recompute"},
      {"schedule: {kind: cosin}", "schedule.kind"},
      {"data: {sampling: shuffle}", "data.sampling"},
      {"checkpoint: {resume: maybe}", "checkpoint.resume"},
      {"run: {device: gpu}", "run.device"},
      {"preset: paper", "preset"},
      {"run: {determinism: yes}", "run.determinism"},
      {"optimizer: {decay: none}", "optimizer.decay"},
      {"evaluation: {sampling: shuffled}", "evaluation.sampling"},
      {"train: {cuda_graph: 1}", "train.cuda_graph"},
      {"run: {threads: 4097}", "run.threads"},
      {"logging: {every: -3}", "logging.every"},
      {"data: {prefetch: 1025}", "data.prefetch"},
      {"schedule: {decay_steps: -1}", "schedule.decay_steps"},
      {"evaluation: {windows: -1}", "evaluation.windows"},
      {"checkpoint: {keep_every: -1}", "checkpoint.keep_every"},
      {"model: {heads: 0}", "model.heads"},
      {"model: {rope_theta: -1}", "model.rope_theta"},
      // Rules across keys.
      {"train: {global_batch: 5, micro_batch: 2}", "train.global_batch"},
      {"optimizer: {lr: 1e-4, min_lr: 1e-3}", "optimizer.min_lr"},
      {"schedule: {warmup_steps: 61}", "schedule.warmup_steps"},
      {"schedule: {decay_steps: 60}", "schedule.decay_steps"},
      {"schedule: {kind: constant, decay_steps: 5}", "schedule.decay_steps"},
      {"checkpoint: {every: 5, keep_every: 7}", "checkpoint.keep_every"},
      {"checkpoint: {every: 0, keep_every: 5}", "checkpoint.keep_every"},
      {"evaluation: {sampling: random, windows: 0}", "evaluation.windows"},
      {"model: {attention: mha, tpa: {rank_q: 6}}", "model.tpa"},
      {"model: {gqa: {kv_heads: 2}}", "model.gqa"},
      {"run: {device: cuda}", "run.device"},
      {"data: {train: []}", "data.train"},
      {"train: {target_loss: 1.0}\ndata: {validation: []}", "train.target_loss"},
      // YAML itself.
      {"train: {steps: 5", "not valid YAML"},
      {"train: {steps: 5}\ntrain: {steps: 6}", "train"},
      {"train: {steps: 5, steps: 6}", "steps"},
      {"train: &a {steps: 5}", "anchor"},
      {"train: *a", "anchor"},
      {"train:\n  <<: {steps: 5}", "<<"},
      {"---\ntrain: {steps: 5}\n---\ntrain: {steps: 6}", "document"},
      {"train: !!map {steps: 5}", "tag"},
      {"\ttrain: {steps: 5}", "bad.yaml"},
      {"- a\n- b", "bad.yaml"},
      {"just words", "bad.yaml"},
      {std::string("train: {steps: 5}\0", 18), "bad.yaml"},
      {"train: {steps: \"\xff\xfe\"}", "bad.yaml"},
  };
  return all;
}

// R17.
TEST_F(RunBadInput, BadConfigsExitTwoAtOnceAndWriteNothing) {
  ASSERT_GE(bad_configs().size(), 120u);
  double slowest = 0, most_cpu = 0;
  long largest = 0;
  constexpr int kPlaceless = 3;  // about what is missing: training data, validation data, a GPU
  int placed = 0;
  for (const BadConfig& bad : bad_configs()) {
    SCOPED_TRACE(bad.yaml);
    write_file(folder() / "bad.yaml", bad.yaml + "\n");
    const auto before = files();
    const std::vector<std::string> command{"train", "--config", "config.yaml", "--config", "bad.yaml", "run.dir=run"};
    Outcome outcome = program(command);
    // The clock also counts what else the machine does: slow is what stays slow.
    for (int i = 0; i < 4 && outcome.seconds > 0.2; ++i)
      outcome.seconds = std::min(outcome.seconds, program(command).seconds);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    placed += std::regex_search(outcome.err, std::regex("bad\\.yaml:[0-9]+:[0-9]+")) ? 1 : 0;
    most_cpu = std::max(most_cpu, outcome.cpu_seconds);
    EXPECT_TRUE(contains(outcome.err, bad.reason));
    EXPECT_EQ(files(), before);
    EXPECT_LT(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 6) << outcome.err;
    slowest = std::max(slowest, outcome.seconds);
    largest = std::max(largest, outcome.peak_kib);
  }
  if (kSanitized) return;
  EXPECT_LT(slowest, full_figures() ? 0.2 : 0.6);
  EXPECT_LT(most_cpu, 0.2);
  EXPECT_LT(largest, 64 << 10);
  EXPECT_EQ(placed, static_cast<int>(bad_configs().size()) - kPlaceless);
  measured(
      "R17",
      "{} bad configs exit 2, {} of them with file:line:column; slowest {:.0f} ms ({:.0f} ms of CPU), largest {} MiB",
      bad_configs().size(), placed, slowest * 1000, most_cpu * 1000, (largest + 1023) >> 10);
}

TEST_F(RunBadInput, EveryMistakeAtOnceWithItsPlace) {
  write_file(folder() / "bad.yaml", "train:\n  stpes: 5\n  micro_batch: 0\noptimizer:\n  lr: fast\n");
  const Outcome outcome =
      program({"train", "--config", "config.yaml", "--config", "bad.yaml", "run.dir=run", "model.layers=0", "foo=1"});
  EXPECT_EQ(outcome.code, 2);
  for (const char* part : {"bad.yaml:2:3", "bad.yaml:3:16", "bad.yaml:5:7", "model.layers=0", "foo", "nearest"}) {
    EXPECT_TRUE(contains(outcome.err, part));
  }
}

TEST_F(RunBadInput, MissingConfigAndBadOverrides) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"train", "--config", "nowhere.yaml"},
           {"train", "--config", "."},
           {"train", "--config", "config.yaml", "train.steps"},
           {"train", "--config", "config.yaml", "=5"},
           {"train", "--config", "config.yaml", "train.steps=5=6"},
           {"train", "--config", "config.yaml", "train..steps=5"},
       }) {
    const auto before = files();
    const Outcome outcome = program(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments.back() << "\n" << outcome.err;
    EXPECT_FALSE(outcome.err.empty());
    EXPECT_EQ(files(), before);
  }
}

// R18.
TEST_F(RunBadInput, BadShardsExitThreeWithFileAndReason) {
  const std::vector<uint32_t> ids = some_ids(20000, kVocabulary);
  const std::string good = bin16(ids), wide = bin32(ids);
  const auto with = [](std::string bytes, size_t at, const std::string& part) {
    return bytes.replace(at, part.size(), part);
  };
  const auto bad_id = [&](size_t position, uint32_t id, bool is_wide) {
    std::vector<uint32_t> changed = ids;
    changed[position] = id;
    return is_wide ? bin32(changed) : bin16(changed);
  };
  const std::string hdf5 = "\x89HDF\r\n\x1a\n";
  struct Bad {
    std::string bytes, reason;
  };
  std::vector<Bad> all = {
      {"", "empty"},
      {"x", "cut off"},
      {good.substr(0, 3), "cut off"},
      {good.substr(0, 4), "cut off"},
      {good.substr(0, 512), "cut off"},
      {good.substr(0, 1023), "cut off"},
      {good.substr(0, 1024), "cut off"},
      {good.substr(0, good.size() - 1), "cut off"},
      {good.substr(0, good.size() - 2), "cut off"},
      {good.substr(0, good.size() / 2), "cut off"},
      {wide.substr(0, wide.size() - 1), "cut off"},
      {wide.substr(0, 5000), "cut off"},
      {good + "x", "left over"},
      {good + good, "left over"},
      {std::string(4096, '\0'), "magic number"},
      {std::string(4096, '\xff'), "magic number"},
      {with(good, 0, "\x09"), "magic number"},
      {with(good, 0, std::string("\x01\x34\xd7\x08", 4)), "big-endian"},
      {good.substr(1024), "magic number"},
      {good.substr(1), "magic number"},
      {"x" + good, "magic number"},
      {with(good, 0, "\x1f\x8b"), "compressed"},
      {with(good, 0, "\x28\xb5\x2f\xfd"), "compressed"},
      {with(good, 0, "PAR1"), "Parquet"},
      {"{\"text\": \"not tokens\"}", "JSON"},
      {"Once upon a time\n", "magic number"},
      {bin_bytes(20240520, 0, 20000, 2, ids), "version 1"},
      {bin_bytes(20240520, 2, 20000, 2, ids), "version 1"},
      {bin_bytes(20240520, 7, 20000, 2, ids), "version 1"},
      {bin_bytes(20240801, 1, 20000, 4, ids), "version 7"},
      {bin_bytes(20240801, -7, 20000, 4, ids), "version 7"},
      {bin_bytes(20240520, 1, 0, 2, {}), "token count"},
      {bin_bytes(20240520, 1, 0, 2, ids), "token count"},
      {bin_bytes(20240520, 1, -1, 2, ids), "token count"},
      {bin_bytes(20240520, 1, INT32_MIN, 2, ids), "token count"},
      {bin_bytes(20240801, 7, INT32_MAX, 4, ids), "cut off"},
      {bin_bytes(20240520, 1, 20001, 2, ids), "cut off"},
      {bin_bytes(20240520, 1, 19999, 2, ids), "left over"},
      {bin_bytes(20240520, 1, 20000, 4, ids), "left over"},
      {bin_bytes(20240801, 7, 20000, 2, ids), "cut off"},
      {bad_id(0, kVocabulary, false), "token 0 (byte 1024) has id 64"},
      {bad_id(19999, 65535, false), "token 19999 (byte 41022) has id 65535"},
      {bad_id(19999, 0xffffffff, true), "token 19999 (byte 81020) has id 4294967295"},
      {bad_id(0, 0x80000001, true), "id 2147483649"},
      {hdf5, "HDF5"},
      {hdf5 + std::string(5000, '\0'), "HDF5"},
      {hdf5 + std::string(5000, '\xff'), "HDF5"},
      {std::string("\x89PNG\r\n\x1a\n", 8) + good, "magic number"},
      {"PK\x03\x04" + good, "magic number"},
      {"BZh9" + good, ""},
      {std::string("\xfd"
                   "7zXZ\0",
                   6) +
           good,
       ""},
      {"\x93NUMPY" + good, ""},
      {"#!/bin/sh\ntouch bad\n", "magic number"},
      {std::string(1024, ' '), "magic number"},
      {good.substr(0, 1025), "cut off"},
      {good.substr(0, 1026), "cut off"},
      {bin_bytes(20240520, 1, INT32_MAX, 2, ids), "cut off"},
      {bin_bytes(20240520, 1, 2000000000, 2, ids), "cut off"},
      {bad_id(19999, kVocabulary, true), "token 19999 (byte 81020) has id 64"},
      {bin16(some_ids(32, kVocabulary)), "33"},  // no window of 32 + 1 tokens; named by the sampler
  };
  ASSERT_GE(all.size(), 60u);
  for (size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(all[i].reason);
    write_file(folder() / "bad.bin", all[i].bytes);
    const bool validation = i % 4 == 3;
    const Outcome outcome = train("run", {validation ? "data.validation=[bad.bin]" : "data.train=[bad.bin]"});
    EXPECT_EQ(outcome.code, 3) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, all[i].reason));
    if (i + 1 < all.size()) {
      EXPECT_TRUE(contains(outcome.err, "bad.bin"));
    }
    expect_nothing_trained("run");
    fs::remove_all(run_folder("run"));
  }
  measured("R18", "{} bad shards exit 3 before step 1, naming file and reason", all.size());
}

// Between the places sampled when a shard is opened: found at the batch that would hold it, and never trained on.
TEST_F(RunBadInput, AnIdOutOfRangeInTheMiddleIsFoundAtItsBatch) {
  ASSERT_EQ(train("run", {"train.steps=10"}).code, 0);
  std::vector<uint32_t> ids = some_ids(100000, kVocabulary);
  for (size_t i = 35000; i < 35100; ++i) ids[i] = kVocabulary + 1;
  write_file(folder() / "late.bin", bin16(ids));
  const Outcome outcome = train("late", {"data.train=[late.bin]", "train.steps=3000", "schedule.kind=constant",
                                         "evaluation.every=0", "checkpoint.every=20"});
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "late.bin"));
  EXPECT_TRUE(std::regex_search(outcome.err, std::regex("token 350[0-9]{2} \\(byte [0-9]+\\) has id 65")))
      << outcome.err;
  EXPECT_TRUE(contains(read_file(run_folder("late") / "train.log"), "has id 65"));  // the log says why it ended, too
  expect_checkpoints_intact("late");
}

TEST_F(RunBadInput, MissingDataAndTokenizers) {
  struct Case {
    Overrides overrides;
    int code;
    std::string reason;
  };
  write_file(folder() / "broken.tiktoken", "this is no rank file\n");
  write_file(folder() / "empty.tiktoken", "");
  std::string ranks;  // 256 bytes: more ids than the model has
  const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int byte = 0; byte < 256; ++byte) {
    ranks += std::string{digits[byte >> 2], digits[(byte & 3) << 4], '=', '='} + " " + std::to_string(byte) + "\n";
  }
  write_file(folder() / "bytes.tiktoken", ranks);
  const std::vector<Case> cases = {
      {{"data.train=[nowhere_*.bin]"}, 3, "nowhere_*.bin"},
      {{"data.validation=[nowhere_*.bin]"}, 3, "nowhere_*.bin"},
      {{"data.train=[train_000001.bin, train_*.bin]"}, 3, "train_000001.bin"},
      {{"data.train=[.]"}, 3, "a folder"},
      {{"data.tokenizer=nowhere.tiktoken"}, 3, "nowhere.tiktoken"},
      {{"data.tokenizer=broken.tiktoken"}, 3, "broken.tiktoken"},
      {{"data.tokenizer=empty.tiktoken"}, 3, "empty.tiktoken"},
      {{"data.tokenizer=bytes.tiktoken"}, 3, "model.vocab_size"},
      {{"model.context=4000"}, 3, "4001"},
      {{"model.vocab_size=8"}, 3, "expected below the vocabulary 8"},
  };
  for (const Case& one : cases) {
    const Outcome outcome = train("run", one.overrides);
    EXPECT_EQ(outcome.code, one.code) << one.overrides[0] << "\n" << outcome.err;
    EXPECT_TRUE(contains(outcome.err, one.reason)) << one.overrides[0];
    expect_nothing_trained("run");
    fs::remove_all(run_folder("run"));
  }
}

// A start that fails changes nothing of the run that is there.
TEST_F(RunBadInput, AnEarlyFailureLeavesAnExistingRunAsItWas) {
  ASSERT_EQ(train("run", {"train.steps=10"}).code, 0);
  const auto before = snapshot("run");
  for (const Overrides& bad :
       {Overrides{"data.train=[nowhere.bin]"}, Overrides{"model.width=64"}, Overrides{"model.vocab_size=8"},
        Overrides{"run.seed=3"}, Overrides{"train.steps=none"}, Overrides{"model.context=4000"}}) {
    EXPECT_NE(train("run", bad).code, 0) << bad[0];
    EXPECT_EQ(snapshot("run"), before) << bad[0];
  }
}

TEST_F(RunBadInput, AFolderThatCannotBeWritten) {
  write_file(folder() / "file", "x");
  const Outcome outcome = train("file/run");
  EXPECT_EQ(outcome.code, 6) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "file"));
  EXPECT_EQ(train("/proc/run").code, 6);
}

TEST_F(RunBadInput, CheckpointsThatAreNoneOrOfAnotherModel) {
  ASSERT_EQ(train("run", {"train.steps=10"}).code, 0);
  // Garbage under a checkpoint's name, newer than the others: not used, said, and the run goes on.
  fs::create_directory(checkpoints("run") / "step-00000099");
  write_file(checkpoints("run") / "step-00000099" / "manifest.json", "garbage");
  const Outcome warned = train("run", {"train.steps=20"});
  EXPECT_EQ(warned.code, 0) << warned.err;
  EXPECT_TRUE(contains(warned.err, "step-00000099/manifest.json"));
  const auto before = snapshot("run");
  const Outcome other = train("run", {"train.steps=30", "model.width=64"});
  EXPECT_EQ(other.code, 4) << other.err;
  EXPECT_TRUE(contains(other.err, "does not fit the model"));
  EXPECT_EQ(snapshot("run"), before);
}

}  // namespace
}  // namespace t6::test
