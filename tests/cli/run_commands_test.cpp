// train, eval, generate, checkpoint, info, plot and bench train on a tiny model: the whole way, and its exit codes.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/program.h"
#include "cli/tiny_model.h"
#include "tensor/gpu.h"

namespace t6::test {
namespace {

using nlohmann::json;

const std::string kTinyConfig = kTinyModel + R"(data:
  train: [data/tiny_train_*.bin]
  validation: [data/tiny_val_*.bin]
  tokenizer: t.tiktoken
train:
  steps: 30
  global_batch: 8
  micro_batch: 4
optimizer: {lr: 1.0e-2, min_lr: 1.0e-3}
schedule: {warmup_steps: 3}
evaluation: {every: 10, windows: 8}
checkpoint: {every: 10}
logging: {every: 10}
run: {threads: 1}
)";

std::string shipped(const std::string& name) {
  return std::string(T6_SOURCE_DIR) + "/configs/" + name;
}

class RunCommands : public Program {
 protected:
  void make_data() {
    write("text.txt", small_text());
    write("tiny.yaml", kTinyConfig);
    expect_ok({"tokenizer", "train", "--input", "text.txt", "--vocab", "300", "--out", "t.tiktoken"});
    expect_ok({"tokenize", "--tokenizer", "t.tiktoken", "--out", "data/tiny", "--separator", "\\n", "text.txt"});
  }
  Outcome expect_ok(const std::vector<std::string>& arguments) {
    Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << arguments.front() << ": " << outcome.err;
    return outcome;
  }
  void expect_refused(const std::vector<std::string>& arguments, int code, const std::vector<std::string>& messages) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    for (const std::string& message : messages) EXPECT_TRUE(contains(outcome.err, message));
    EXPECT_FALSE(contains(outcome.err, "internal error"));
  }
};

TEST_F(RunCommands, FromTextToAModelThatWrites) {
  make_data();
  const Outcome train = expect_ok({"train", "--config", "tiny.yaml", "train.steps=20"});
  EXPECT_TRUE(contains(train.out, "finished after step 20 of 20"));
  EXPECT_TRUE(contains(train.out, "run folder"));
  EXPECT_TRUE(contains(train.out, "runs/tiny/metrics.jsonl"));
  EXPECT_TRUE(contains(train.out, "runs/tiny/checkpoints/step-00000020"));
  EXPECT_TRUE(contains(train.err, "step 20/20"));

  // The same command with more steps resumes.
  const Outcome more = expect_ok({"train", "--config", "tiny.yaml"});
  EXPECT_TRUE(contains(more.err, "resumed from runs/tiny/checkpoints/step-00000020"));
  EXPECT_TRUE(contains(more.out, "finished after step 30 of 30"));

  const json list = json::parse(expect_ok({"checkpoint", "list", "runs/tiny", "--json"}).out);
  ASSERT_EQ(list.at("checkpoints").size(), 3);
  EXPECT_EQ(list.at("checkpoints").at(2).at("step"), 30);
  EXPECT_TRUE(contains(expect_ok({"checkpoint", "verify", "runs/tiny", "--deep"}).out, "intact"));
  const std::string shown = expect_ok({"checkpoint", "inspect", "runs/tiny"}).out;
  for (const char* part : {"params/", "ranks", "parts"}) EXPECT_TRUE(contains(shown, part)) << shown;
  const json inspected =
      json::parse(expect_ok({"checkpoint", "inspect", "runs/tiny/checkpoints/step-00000020", "--json"}).out);
  EXPECT_EQ(inspected.at("step"), 20);

  const Outcome eval = expect_ok({"eval", "runs/tiny", "--json"});
  const json newest = json::parse(eval.out);
  EXPECT_EQ(newest.at("step"), 30);
  EXPECT_EQ(newest.at("tokens"), 8 * 32);
  // The same number as the run's own last evaluation.
  EXPECT_TRUE(contains(more.out, newest.at("loss").dump().substr(0, 4)));
  const json older = json::parse(expect_ok({"eval", "runs/tiny/checkpoints/step-00000010", "--json"}).out);
  EXPECT_EQ(older.at("step"), 10);
  EXPECT_LT(newest.at("loss"), older.at("loss")) << "twenty more steps help";
  EXPECT_LT(newest.at("loss"), 5.0) << "far below log(320)";
  const json few = json::parse(expect_ok({"eval", "runs/tiny/", "--windows", "2", "--batch", "1", "--json"}).out);
  EXPECT_EQ(few.at("windows"), 2);
  EXPECT_TRUE(contains(expect_ok({"eval", "runs/tiny", "--data", "data/tiny_train_*.bin"}).out, "perplexity"));

  const std::vector<std::string> generate{"generate", "runs/tiny", "--prompt", "the cat", "--tokens", "20"};
  const Outcome text = expect_ok(generate);
  EXPECT_TRUE(text.out.starts_with("the cat"));
  EXPECT_GT(text.out.size(), std::string("the cat\n").size());
  EXPECT_TRUE(contains(text.err, "tokens/s"));
  EXPECT_EQ(expect_ok(generate).out, text.out) << "the seed decides";
  std::vector<std::string> other = generate;
  other.insert(other.end(), {"--temperature", "1.5", "--top-k", "0", "--seed", "9", "--quiet"});
  const Outcome wild = expect_ok(other);
  EXPECT_NE(wild.out, text.out);
  EXPECT_EQ(wild.err, "");
  write("prompt.txt", "a small dog");
  EXPECT_TRUE(expect_ok({"generate", "runs/tiny", "--prompt-file", "prompt.txt", "--tokens", "3", "--temperature", "0"})
                  .out.starts_with("a small dog"));

  // Row by row, and a token changes nothing before it.
  expect_ok({"logits", "runs/tiny", "--ids", "299,260,261,262", "--out", "four.safetensors"});
  expect_ok({"logits", "runs/tiny", "--ids", "299,260", "--out", "two.safetensors"});
  const std::string four = read("four.safetensors"), two = read("two.safetensors");
  const auto data_of = [](const std::string& file) { return file.substr(8 + static_cast<uint8_t>(file[0])); };
  EXPECT_EQ(data_of(four).size(), 4 * 320 * 4u);
  EXPECT_EQ(data_of(two).size(), 2 * 320 * 4u);
  EXPECT_EQ(data_of(four).substr(0, 320 * 4), data_of(two).substr(0, 320 * 4));
  const json header = json::parse(four.substr(8, static_cast<uint8_t>(four[0])));
  EXPECT_EQ(header.at("logits"), json::parse(R"({"dtype": "F32", "shape": [4, 320], "data_offsets": [0, 5120]})"));
  expect_refused({"logits", "runs/tiny", "--ids", "320", "--out", "x"}, 2, {"--ids", "below 320", "got 320"});
  expect_refused({"logits", "runs/tiny", "--ids", "-1", "--out", "x"}, 2, {"--ids"});
  expect_refused({"logits", "runs/tiny", "--ids", "1", "--out", "runs"}, 2, {"--out", "the folder runs"});
  expect_ok({"logits", "runs/tiny", "--ids", "299,260", "--out", "new/folder/two.safetensors"});
  EXPECT_EQ(read("new/folder/two.safetensors"), two);
  std::string many = "1";
  for (int i = 0; i < 32; ++i) many += ",1";
  expect_refused({"logits", "runs/tiny", "--ids", many, "--out", "x"}, 2, {"at most 32 ids", "got 33"});

  expect_ok({"plot", "runs/tiny", "--out", "curves.svg"});
  EXPECT_TRUE(contains(read("curves.svg"), "<svg"));
  EXPECT_TRUE(contains(expect_ok({"plot", "runs/tiny"}).out, "tiny"));
}

TEST_F(RunCommands, TheSummaryNamesTheCheckpointThatWasUsed) {
  make_data();
  expect_ok({"train", "--config", "tiny.yaml", "train.steps=20"});
  write("runs/tiny/checkpoints/step-00000020/manifest.json", "{}");
  const Outcome again = expect_ok({"train", "--config", "tiny.yaml", "train.steps=10"});
  EXPECT_TRUE(contains(again.err, "resumed from runs/tiny/checkpoints/step-00000010"));
  EXPECT_TRUE(contains(again.out, "runs/tiny/checkpoints/step-00000010"));
  EXPECT_EQ(again.out.find("step-00000020"), std::string::npos) << again.out;
}

// The system would kill it without a word.
TEST_F(RunCommands, ARunThatCannotFitIsRefusedWithWhatWould) {
  make_data();
  expect_refused({"train", "--config", "tiny.yaml", "train.micro_batch=65536", "train.global_batch=65536",
                  "model.width=4096", "model.layers=64"},
                 6, {"out of memory: the run needs about", "this machine has"});
}

TEST_F(RunCommands, MistakesOfNewcomersAreNamed) {
  make_data();
  // A key without its `=`.
  expect_refused({"train", "--config", "tiny.yaml", "train.steps", "30"}, 2, {"train.steps=30"});
  expect_refused({"train", "--config", "tiny.yaml", "train.steps"}, 2, {"train.steps=VALUE"});
  // A dry run says what the run would be refused for.
  if (gpu::count() == 0) {
    EXPECT_TRUE(
        contains(expect_ok({"train", "--config", "tiny.yaml", "--dry-run", "run.device=cuda"}).out, "REFUSED here"));
  }
  EXPECT_TRUE(
      contains(expect_ok({"train", "--config", "tiny.yaml", "--dry-run", "run.device=cpu", "model.width=65536"}).out,
               "DOES NOT FIT"));
  EXPECT_FALSE(contains(expect_ok({"train", "--config", "tiny.yaml", "--dry-run"}).out, "DOES NOT FIT"));

  // Nothing is left of a start that failed.
  expect_refused({"train", "--config", "tiny.yaml", "data.train=[nowhere.bin]"}, 3, {"nowhere.bin"});
  EXPECT_FALSE(std::filesystem::exists(folder() / "runs" / "tiny"));

  const Outcome train = expect_ok({"train", "--config", "tiny.yaml", "train.steps=10"});
  EXPECT_TRUE(contains(train.err, "step 10/10"));
  EXPECT_FALSE(contains(train.err, "eta 0"));
  expect_refused({"train", "--config", "tiny.yaml", "model.attention=mha"}, 2, {"model.tpa"});
  std::string config = kTinyConfig;
  config.erase(config.find("  tpa: {"), std::string("  tpa: {rank_q: 2, rank_k: 1, rank_v: 1}\n").size());
  write("mha.yaml", config.replace(config.find("attention: tpa"), 14, "attention: mha"));
  expect_refused({"train", "--config", "mha.yaml", "run.dir=runs/tiny"}, 4,
                 {"another attention kind, tpa and not mha", "choose another run.dir"});
  expect_refused({"train", "--config", "tiny.yaml", "model.width=64"}, 4, {"model.width is 32 there and 64 here"});

  EXPECT_EQ(expect_ok({"info", "runs/tiny"}).out, expect_ok({"info", "tiny.yaml"}).out);
  EXPECT_EQ(json::parse(expect_ok({"info", "runs/tiny/", "--json"}).out).at("models").at(0).at("config"), "tiny");
  expect_refused({"info", "data"}, 2, {"resolved.yaml"});
  expect_refused({"plot", "runs/none"}, 4, {"no such run", "t6 train"});
  expect_refused({"plot", "data"}, 4, {"no run folder"});
  if (gpu::count() == 0) {
    const Outcome eval = run({"eval", "runs/tiny", "--device", "cuda"});
    EXPECT_EQ(eval.code, 2);
    EXPECT_TRUE(contains(eval.err, "--device cuda asks for a GPU"));
    EXPECT_FALSE(contains(eval.err, "run.device"));
  }
}

TEST_F(RunCommands, ATokenizerWithoutTheShardsIdsIsRefused) {
  make_data();
  expect_ok({"tokenizer", "train", "--input", "text.txt", "--vocab", "270", "--out", "small.tiktoken"});
  expect_refused({"train", "--config", "tiny.yaml", "data.tokenizer=small.tiktoken"}, 3,
                 {"small.tiktoken has 270 ids", "tiny_train_"});
  EXPECT_FALSE(std::filesystem::exists(folder() / "runs"));
  expect_ok({"train", "--config", "tiny.yaml", "train.steps=3"});
  expect_refused({"generate", "runs/tiny", "--tokenizer", "small.tiktoken", "--prompt", "a"}, 3,
                 {"small.tiktoken has 270 ids"});
  expect_ok({"generate", "runs/tiny", "--prompt", "a", "--tokens", "2"});
}

TEST_F(RunCommands, ARunThatStopsBeforeItsNextEvaluationSaysSo) {
  make_data();
  const pid_t child = start({"train", "--config", "tiny.yaml", "train.steps=100000000", "schedule.kind=constant",
                             "evaluation.every=0", "checkpoint.every=0"});
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const auto steps = [&] {
    const std::string log = read("runs/tiny/metrics.jsonl");
    return std::count(log.begin(), log.end(), '\n');
  };
  while (steps() < 5 && std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ::kill(child, SIGTERM);
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.code, 143) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "before the first step, not measured since"));
}

TEST_F(RunCommands, PlotWritesSvgAlone) {
  make_data();
  expect_ok({"train", "--config", "tiny.yaml", "train.steps=10"});
  expect_refused({"plot", "runs/tiny", "--out", "curves.png"}, 2, {".svg", "curves.png"});
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

// The fraction of the measured peak, and points of every step in the event file, however rarely the console has a line.
TEST_F(RunCommands, AWholeRunSaysItsMfuEverywhere) {
  make_data();
  const Outcome train = expect_ok({"train", "--config", "tiny.yaml", "logging.every=20"});
  EXPECT_EQ(count_of(train.err, " | mfu "), 3) << train.err;  // steps 1, 20, 30

  const json peak = json::parse(read("runs/tiny/env.json")).at("peak");
  EXPECT_EQ(peak.at("device"), "cpu");
  EXPECT_EQ(peak.at("precision"), "f32");
  EXPECT_TRUE(peak.at("source").get<std::string>().starts_with("measured")) << peak;
  EXPECT_GT(peak.at("flops_per_second"), 1e9);
  const json info = json::parse(expect_ok({"info", "tiny.yaml", "--json"}).out);
  const double flops = info.at("models").at(0).at("flops_per_token_causal");
  std::istringstream timing(read("runs/tiny/timing.jsonl"));
  int steps = 0;
  double peak_before = peak.at("flops_per_second");  // as measured at the start
  for (std::string text; std::getline(timing, text);) {
    const json line = json::parse(text);
    if (line.at("kind") != "train") continue;
    ++steps;
    const double mfu = line.at("mfu"), pace = line.at("tokens_per_second");
    EXPECT_GT(mfu, 0);  // how large it is depends on who else is using the machine
    EXPECT_LE(mfu, 1);
    // A step above the peak raises it for itself and for the later ones.
    const double peak_then = flops * pace / mfu;
    if (mfu < 1) {
      EXPECT_NEAR(peak_then / peak_before, 1, 1e-9);
    }
    EXPECT_GE(peak_then, peak_before * (1 - 1e-9));
    peak_before = peak_then;
  }
  EXPECT_EQ(steps, 30);

  std::string events;
  for (const auto& entry : std::filesystem::directory_iterator(folder() / "runs/tiny/tensorboard")) {
    events += read(std::filesystem::relative(entry.path(), folder()).string());
  }
  EXPECT_EQ(count_of(events, "timing/mfu"), 30);
  EXPECT_EQ(count_of(events, "train/loss"), 30);
  EXPECT_TRUE(events.find(read("runs/tiny/resolved.yaml")) != std::string::npos) << "no config among the texts";

  // Another start measures another peak, and that is no other machine.
  expect_ok({"train", "--config", "tiny.yaml"});
  EXPECT_FALSE(std::filesystem::exists(folder() / "runs/tiny/env.json.1"));
  const json bf16 = json::parse([&] {
    expect_ok({"train", "--config", "tiny.yaml", "train.precision=bf16", "run.dir=bf16", "train.steps=3"});
    return read("bf16/env.json");
  }());
  EXPECT_EQ(bf16.at("peak").at("precision"), "bf16");
}

// With the tensorboard package (python3 or the interpreter named by T6_PYTHON): a whole run, and one that was resumed.
TEST_F(RunCommands, TheTensorBoardPackageReadsWholeRuns) {
  make_data();
  expect_ok({"train", "--config", "tiny.yaml", "run.dir=whole", "logging.every=20"});
  expect_ok({"train", "--config", "tiny.yaml", "run.dir=parts", "train.steps=17"});
  expect_ok({"train", "--config", "tiny.yaml", "run.dir=parts", "logging.every=20"});
  const char* python = std::getenv("T6_PYTHON");
  const std::string command = std::string(python != nullptr ? python : "python3") + " '" + T6_SOURCE_DIR +
                              "/scripts/check_tensorboard.py' '" + (folder() / "whole").string() + "' '" +
                              (folder() / "parts").string() + "'";
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127)
    GTEST_SKIP() << "no python3 with the tensorboard package";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(RunCommands, BadOptionsOfGenerateExit2) {
  make_data();
  expect_ok({"train", "--config", "tiny.yaml", "train.steps=3"});
  for (const std::vector<std::string>& options : std::vector<std::vector<std::string>>{{"--temperature", "-1"},
                                                                                       {"--temperature", "nan"},
                                                                                       {"--top-p", "0"},
                                                                                       {"--top-p", "1.5"},
                                                                                       {"--top-k", "-3"},
                                                                                       {"--tokens", "0"},
                                                                                       {"--seed", "-1"},
                                                                                       {"--seed", "x"}}) {
    std::vector<std::string> arguments{"generate", "runs/tiny", "--prompt", "a"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    expect_refused(arguments, 2, {options[0], "got '" + options[1] + "'"});
  }
  expect_refused({"generate", "runs/tiny", "--prompt", "a", "--prompt-file", "b"}, 2, {"--prompt"});
  expect_refused({"generate", "runs/tiny", "--prompt-file", "missing.txt"}, 6, {"missing.txt"});
  expect_refused({"generate", "runs/tiny", "--tokenizer", "missing.tiktoken"}, 3, {"missing.tiktoken"});
}

TEST_F(RunCommands, ConfigErrorsComeTogetherAtOnceAndBeforeAnythingLarge) {
  write("bad.yaml",
        "model:\n  attention: mha\n  heads: many\n  widht: 64\ntrain:\n  steps: 0\n  steps: 5\ndata:\n  train: [x]\n");
  const Outcome outcome = run({"train", "--config", "bad.yaml", "optimizer.lr=-1"});
  EXPECT_EQ(outcome.code, 2);
  for (const char* problem : {"bad.yaml:3:10: model.heads", "bad.yaml:4:3: model.widht", "width", "bad.yaml:7:3",
                              "override 'optimizer.lr=-1'"}) {
    EXPECT_TRUE(contains(outcome.err, problem));
  }
  EXPECT_EQ(outcome.out, "");
#if !defined(__SANITIZE_ADDRESS__)
  EXPECT_LT(outcome.cpu_seconds, 0.2);
  EXPECT_LT(outcome.peak_kib, 64 * 1024);
#endif
  EXPECT_EQ(files(), std::vector<std::string>{"bad.yaml"});
  expect_refused({"train", "--config", "missing.yaml"}, 2, {"missing.yaml"});
  expect_refused({"train"}, 2, {"--config"});
  expect_refused({"train", "--config", shipped("demo_tpa.yaml"), "data.train=[]"}, 2, {"data.train"});
}

TEST_F(RunCommands, DryRunSaysEverythingAndTouchesNothing) {
  const Outcome outcome = expect_ok({"train", "--config", shipped("t6_tpa_small.yaml"), "--dry-run"});
  for (const char* fact : {"124,342,272", "causal", "full-attention convention", "cache a token", "memory", "rank_q: 6",
                           "not there yet", "# run folder       runs/t6_tpa_small"}) {
    EXPECT_TRUE(contains(outcome.out, fact));
  }
  EXPECT_TRUE(files().empty());
  // What it prints is a config that says the same.
  write("resolved.yaml", outcome.out);
  EXPECT_EQ(expect_ok({"train", "--config", "resolved.yaml", "--dry-run"}).out, outcome.out);
  EXPECT_EQ(files(), std::vector<std::string>{"resolved.yaml"});
}

TEST_F(RunCommands, FilesMergeInOrderAndOverridesWin) {
  write("a.yaml",
        "model: {attention: mha, width: 64, heads: 4, head_width: 16}\ntrain: {steps: 5}\n"
        "schedule: {warmup_steps: 0}\n");
  write("b.yaml", "train: {steps: 7}\n");
  const auto steps = [&](const std::vector<std::string>& files, const std::string& word) {
    std::vector<std::string> arguments{"train", "--dry-run"};
    arguments.insert(arguments.end(), files.begin(), files.end());
    EXPECT_TRUE(contains(expect_ok(arguments).out, word));
  };
  steps({"--config", "a.yaml", "--config", "b.yaml"}, "steps: 7");
  steps({"--config", "b.yaml", "--config", "a.yaml"}, "steps: 5");
  steps({"--config", "a.yaml", "b.yaml", "train.steps=9"}, "steps: 9");
  steps({"train.steps=11", "--config", "a.yaml"}, "steps: 11");
  steps({"--config", "a.yaml", "--config", "b.yaml"}, "runs/a-b");
}

TEST_F(RunCommands, BadDataExits3) {
  make_data();
  const auto train = [](const std::string& change) {
    return std::vector<std::string>{"train", "--config", "tiny.yaml", change};
  };
  expect_refused(train("data.train=nothing/*.bin"), 3, {"nothing/*.bin"});
  // Too few ids for the shards, and for the tokenizer alone.
  expect_refused(train("model.vocab_size=40"), 3, {"tiny_train_000001.bin", "below the vocabulary 40"});
  expect_ok({"tokenizer", "train", "--input", "text.txt", "--vocab", "330", "--out", "big.tiktoken"});
  expect_refused(train("data.tokenizer=big.tiktoken"), 3, {"model.vocab_size is 320", "big.tiktoken has 330 ids"});
  // A header that promises more than there is.
  std::string shard = read("data/tiny_train_000001.bin");
  write("cut.bin", shard.substr(0, shard.size() - 10));
  expect_refused(train("data.train=cut.bin"), 3, {"cut.bin"});
  // An id that the model does not have: 0xFFFF everywhere behind the header.
  write("wild.bin", shard.substr(0, 1024) + std::string(shard.size() - 1024, '\xFF'));
  expect_refused(train("data.train=wild.bin"), 3, {"wild.bin", "65535"});
  write("empty.bin", "");
  expect_refused(train("data.train=empty.bin"), 3, {"empty.bin"});
}

TEST_F(RunCommands, UnusableCheckpointsExit4) {
  make_data();
  expect_ok({"train", "--config", "tiny.yaml", "train.steps=3"});
  expect_refused({"eval", "nowhere"}, 4, {"nowhere"});
  expect_refused({"generate", "data", "--prompt", "a"}, 4, {"data", "neither a run folder"});
  std::filesystem::create_directories(folder() / "fresh/checkpoints");
  expect_refused({"eval", "fresh"}, 4, {"fresh"});

  // One wrong byte in the only checkpoint.
  const std::string payload = "runs/tiny/checkpoints/step-00000003/rank-00000.h5";
  std::string bytes = read(payload);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write(payload, bytes);
  expect_refused({"eval", "runs/tiny"}, 4, {"rank-00000.h5"});
  expect_refused({"generate", "runs/tiny/checkpoints/step-00000003", "--prompt", "a"}, 4, {"rank-00000.h5"});
  expect_refused({"train", "--config", "tiny.yaml"}, 4, {"rank-00000.h5"});
  const Outcome verify = run({"checkpoint", "verify", "runs/tiny", "--json"});
  EXPECT_EQ(verify.code, 4);
  EXPECT_EQ(json::parse(verify.out).at("damaged"), 1);
  EXPECT_TRUE(json::parse(verify.out).at("resumed_from").is_null());
  EXPECT_TRUE(contains(verify.err, "1 of 1 checkpoints") && contains(verify.err, "none is intact")) << verify.err;
}

TEST_F(RunCommands, VerifySaysWhatResumingWillUse) {
  make_data();
  expect_ok({"train", "--config", "tiny.yaml", "checkpoint.every=10", "train.steps=30"});
  const auto damage = [&](const char* name) {
    std::filesystem::remove(folder() / "runs/tiny/checkpoints" / name / "rank-00000.h5");
  };
  damage("step-00000030");
  expect_refused({"checkpoint", "verify", "runs/tiny"}, 4, {"1 of 3 checkpoints", "resuming will use step-00000020"});
  expect_refused({"checkpoint", "verify", "runs/tiny/checkpoints/step-00000030"}, 4,
                 {"1 of 1 checkpoints", "resuming will use step-00000020"});
  damage("step-00000010");
  expect_refused({"checkpoint", "verify", "runs/tiny/checkpoints/step-00000010"}, 4,
                 {"resuming will use step-00000020"});
  const Outcome verify = run({"checkpoint", "verify", "runs/tiny", "--json"});
  EXPECT_TRUE(json::parse(verify.out).at("resumed_from").get<std::string>().ends_with("step-00000020")) << verify.out;
  damage("step-00000020");
  expect_refused({"checkpoint", "verify", "runs/tiny/checkpoints/step-00000010"}, 4, {"none is intact"});
  const json list = json::parse(expect_ok({"checkpoint", "list", "runs/tiny", "--json"}).out);
  EXPECT_EQ(list.at("checkpoints").size(), 3) << "verifying changes nothing";
}

TEST_F(RunCommands, TwoTrainersCannotShareARunFolderAndASignalSaves) {
  make_data();
  const pid_t first = start({"train", "--config", "tiny.yaml", "train.steps=1000000", "checkpoint.every=0"});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!contains(read(kStandardError), "step 10/") && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::filesystem::rename(folder() / kStandardOutput, folder() / "first.out");
  std::filesystem::rename(folder() / kStandardError, folder() / "first.err");
  const Outcome second = run({"train", "--config", "tiny.yaml"});
  EXPECT_EQ(second.code, 4);
  EXPECT_TRUE(contains(second.err, "runs/tiny"));
  EXPECT_LT(second.cpu_seconds, 1);
  ::kill(first, SIGTERM);
  EXPECT_EQ(finish(first).code, 143);
  EXPECT_TRUE(contains(read("first.out"), "stopped by a signal, saved"));
  EXPECT_EQ(json::parse(expect_ok({"checkpoint", "list", "runs/tiny", "--json"}).out).at("checkpoints").size(), 1);
}

TEST_F(RunCommands, InfoComparesTheShippedKinds) {
  const json all = json::parse(expect_ok({"info", "--all", "--json"}).out).at("models");
  ASSERT_EQ(all.size(), 6);
  for (const json& model : all) {
    EXPECT_GT(model.at("flops_per_token_full"), model.at("flops_per_token_causal"));
    EXPECT_NEAR(model.at("parameters").get<double>(), 124e6, 6e6) << "one budget";
    if (model.at("attention") == "tpa") {
      EXPECT_EQ(model.at("parameters"), 124342272);
      // (R_K + R_V)(H + D) numbers a token and layer.
      EXPECT_EQ(model.at("cache_bytes_per_token_bf16"), 2 * 12 * (2 + 2) * (34 + 64));
    }
  }
  const Outcome table = expect_ok({"info", "--all", "--size", "medium"});
  for (const char* name : {"t6_mha_medium", "t6_tpa_kvonly_medium", "t6_mla_medium"}) {
    EXPECT_TRUE(contains(table.out, name));
  }
  EXPECT_TRUE(contains(expect_ok({"info", shipped("t6_tpa_small.yaml")}).out, "124,342,272"));
  expect_refused({"info"}, 2, {"--all"});
  expect_refused({"info", "--all", "--size", "smal"}, 2, {"did you mean small"});
  expect_refused({"info", "missing.yaml"}, 2, {"missing.yaml"});
}

TEST_F(RunCommands, BenchMatmulOnEitherDevice) {
  const std::vector<std::string> small{"bench", "matmul", "--size", "128", "--seconds", "0.01"};
  auto on = [&](const char* device) {
    std::vector<std::string> words = small;
    words.insert(words.end(), {"--json", "--device", device});
    return words;
  };
  const json cpu = json::parse(expect_ok(on("cpu")).out);
  EXPECT_GT(cpu.at("gflops_f32"), 0);
  if (gpu::count() == 0) {
    expect_refused(on("cuda"), 2, {"expected a GPU", gpu::why_none()});
    return;
  }
  const json cuda = json::parse(expect_ok(on("cuda")).out);
  EXPECT_GT(cuda.at("gflops_f32"), 0);
  EXPECT_GT(cuda.at("gflops_bf16"), 0);
  EXPECT_EQ(cuda.at("algorithms").size(), 2);
}

// The same commands on a GPU, one after the other, as somebody would give them; the estimate is of what is measured.
TEST_F(RunCommands, TrainEvaluateGenerateOnAGpu) {
  if (gpu::count() == 0) GTEST_SKIP() << "needs a GPU";
  make_data();
  const std::string with_cuda = "run.device=cuda";
  expect_ok({"train", "--config", "tiny.yaml", "train.steps=6", "train.precision=bf16", with_cuda});
  const json environment = json::parse(read("runs/tiny/env.json"));
  EXPECT_FALSE(environment.at("gpu").at("name").get<std::string>().empty());
  EXPECT_GT(environment.at("matmul_algorithms").size(), 4) << "products of a step";
  // Going on from there is no other environment.
  expect_ok({"train", "--config", "tiny.yaml", "train.steps=9", "train.precision=bf16", with_cuda});
  EXPECT_FALSE(std::filesystem::exists(folder() / "runs/tiny/env.json.1"));
  const json eval = json::parse(expect_ok({"eval", "runs/tiny", "--device", "cuda", "--json"}).out);
  EXPECT_LT(eval.at("loss"), 6);
  expect_ok({"generate", "runs/tiny", "--device", "cuda", "--prompt", "the", "--tokens", "4"});

  for (const char* precision : {"f32", "bf16"}) {
    const json bench = json::parse(expect_ok({"bench", "train", "--config", "tiny.yaml", "--device", "cuda", "--batch",
                                              "4", "--steps", "1", "--precision", precision, "--json"})
                                       .out);
    const double memory = bench.at("peak_memory_bytes"), estimate = bench.at("estimated_memory_bytes");
    EXPECT_NEAR(estimate / memory, 1, 0.1) << precision;
    EXPECT_GE(bench.at("reserved_memory_bytes"), memory) << precision;
    EXPECT_GE(bench.at("device_memory_in_use_bytes"), bench.at("peak_memory_bytes")) << precision;
  }
}

TEST_F(RunCommands, BenchTrainSaysWhereTheTimeGoes) {
  write("tiny.yaml", kTinyConfig);
  const json bench = json::parse(expect_ok({"bench", "train", "--config", "tiny.yaml", "--device", "cpu", "--batch",
                                            "2", "--steps", "2", "--json"})
                                     .out);
  EXPECT_EQ(bench.at("batch"), 2);
  EXPECT_EQ(bench.at("device"), "cpu");
  EXPECT_GT(bench.at("tokens_per_second"), 0);
  EXPECT_GT(bench.at("peak_gflops"), 0);
  EXPECT_GT(bench.at("mfu_full"), bench.at("mfu_causal"));
  // Of the steps alone, not of what the peaks were measured with.
  const double memory = bench.at("peak_memory_bytes"), estimate = bench.at("estimated_memory_bytes");
  EXPECT_GT(memory, estimate / 2);
  EXPECT_LT(memory, estimate * 2);
  double shares = 0;
  std::vector<std::string> parts;
  for (const json& part : bench.at("time")) {
    shares += part.at("share").get<double>();
    parts.push_back(part.at("part"));
    if (part.at("part") == "products" || part.at("part") == "attention") {
      EXPECT_GT(part.at("gflops"), 0);
    }
    if (part.at("part") != "outside of kernels") {
      EXPECT_GT(part.at("share"), 0);
      EXPECT_GT(part.at("gigabytes_per_second"), 0);
    }
  }
  EXPECT_NEAR(shares, 1, 1e-6);
  EXPECT_EQ(parts,
            (std::vector<std::string>{"products", "attention", "element-wise", "optimizer", "outside of kernels"}));
  const Outcome text = expect_ok({"bench", "train", "--config", "tiny.yaml", "--steps", "1", "--precision", "bf16"});
  EXPECT_TRUE(contains(text.out, "tokens/s"));
  EXPECT_TRUE(contains(text.out, "estimated"));
  EXPECT_FALSE(contains(text.out, "micro-steps"));
  EXPECT_EQ(files(), std::vector<std::string>{"tiny.yaml"});
}

TEST_F(RunCommands, BenchTrainTakesMicroStepsTogether) {
  write("tiny.yaml", kTinyConfig);
  const auto bench = [&](const char* micro_steps, bool as_json) {
    std::vector<std::string> words{"bench",   "train", "--config", "tiny.yaml", "--device",      "cpu",
                                   "--batch", "2",     "--steps",  "2",         "--micro-steps", micro_steps};
    if (as_json) words.push_back("--json");
    return expect_ok(words).out;
  };
  const json one = json::parse(bench("1", true)), three = json::parse(bench("3", true));
  EXPECT_EQ(one.at("micro_steps"), 1);
  EXPECT_EQ(three.at("micro_steps"), 3);
  EXPECT_EQ(three.at("batch"), 2);
  const double tokens = 3 * 2 * three.at("context").get<double>();
  EXPECT_NEAR(three.at("tokens_per_second").get<double>() * three.at("ms_per_step").get<double>() / 1e3, tokens, 1e-6);
  // One update a step, however many micro-steps.
  const auto part = [](const json& of, size_t i) { return of.at("time").at(i).at("calls_per_step").get<double>(); };
  EXPECT_EQ(one.at("time").at(3).at("part"), "optimizer");
  EXPECT_EQ(part(three, 3), part(one, 3));
  EXPECT_EQ(part(three, 0), 3 * part(one, 0)) << "products";
  EXPECT_EQ(three.at("estimated_memory_bytes"), one.at("estimated_memory_bytes"));
  EXPECT_TRUE(contains(bench("3", false), "3 micro-steps of 2 windows"));
  expect_refused({"bench", "train", "--config", "tiny.yaml", "--micro-steps", "0"}, 2, {"--micro-steps"});
}

TEST_F(RunCommands, BenchTrainOnAGpuTimesKernelsWhenAsked) {
  write("tiny.yaml", kTinyConfig);
  const std::vector<std::string> words{"bench",   "train", "--config", "tiny.yaml", "--device", "cuda",
                                       "--batch", "1",     "--steps",  "1",         "--json"};
  if (gpu::count() == 0) {
    expect_refused(words, 2, {"asks for a GPU", gpu::why_none()});
    return;
  }
  const json plain = json::parse(expect_ok(words).out);
  EXPECT_EQ(plain.at("device"), "cuda");
  EXPECT_EQ(plain.at("device_name"), gpu::info(0).name);
  EXPECT_GT(plain.at("peak_memory_bytes"), 0);
  EXPECT_FALSE(plain.contains("time"));
  EXPECT_EQ(plain.at("cuda_graph"), true);
  EXPECT_FALSE(plain.at("attention").at("backend").get<std::string>().empty());
  for (const char* pass : {"forward", "backward"}) EXPECT_EQ(plain.at("attention").at(pass), "own kernels") << "f32";
  std::vector<std::string> profiled = words;
  profiled.push_back("--profile");
  const json bench = json::parse(expect_ok(profiled).out);
  EXPECT_EQ(bench.at("time").size(), 5);
  EXPECT_GT(bench.at("time").at(0).at("gflops"), 0);
  EXPECT_EQ(bench.at("cuda_graph"), false) << "kernels in a graph are not timed";
  std::vector<std::string> text = words;
  text.pop_back();
  EXPECT_TRUE(contains(expect_ok(text).out, "forward on own kernels, backward on own kernels"));
}

TEST_F(RunCommands, BenchOpsMeasuresEveryFamily) {
  write("tiny.yaml", kTinyConfig);
  auto ops = [&](std::vector<std::string> more) {
    std::vector<std::string> words{"bench", "ops", "--config", "tiny.yaml", "--batch", "1", "--repeats", "1", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const json found = json::parse(expect_ok(words).out);
    EXPECT_EQ(found.at("device"), gpu::count() > 0 ? "cuda" : "cpu");
    std::map<std::string, std::vector<std::string>> kernels;
    for (const json& op : found.at("ops")) {
      kernels[op.at("family")].push_back(op.at("kernel"));
      EXPECT_GT(op.at("microseconds"), 0);
      if (op.at("kernel") != "norm_and_clip") {
        EXPECT_GT(op.at("share_of_bound"), 0) << op;
      }
    }
    return kernels;
  };
  using Names = std::vector<std::string>;
  const auto all = ops({"--precision", "bf16"});
  EXPECT_EQ(all.at("products"), Names(15, "matmul"));  // five weights: y, dx, dW
  EXPECT_EQ(all.at("attention"),
            (Names{"attention", "attention_backward", "factor_contraction", "factor_contraction_backward"}));
  EXPECT_EQ(all.at("norm"), (Names{"rms_norm", "rms_norm_backward", "rms_norm", "rms_norm_backward"}));
  EXPECT_EQ(all.at("swiglu"), (Names{"swiglu", "swiglu_backward"}));
  EXPECT_EQ(all.at("embedding"), (Names{"embedding", "embedding_backward"}));
  EXPECT_EQ(all.at("classifier"), (Names{"cross_entropy", "mean_loss"}));
  EXPECT_EQ(all.at("optimizer"), (Names{"norm_and_clip", "sum_of_squares", "adamw"}));

  // Kinds whose heads are moved by a kernel of their own.
  for (const std::string kind : {"mla", "gqa"}) {
    const std::string ranks = "  tpa: {rank_q: 2, rank_k: 1, rank_v: 1}\n";
    std::string config = kTinyConfig;
    config.replace(config.find(ranks), ranks.size(), "").replace(config.find("tpa"), 3, kind);
    write("tiny.yaml", config);
    const auto some = ops({"--op", "attention", "swiglu"});
    EXPECT_EQ(some.size(), 2);
    const Names& kernels = some.at("attention");
    EXPECT_EQ(std::count(kernels.begin(), kernels.end(), "head_copy"), 1);
  }
  const Outcome text = expect_ok({"bench", "ops", "--config", "tiny.yaml", "--op", "norm", "--repeats", "1"});
  EXPECT_TRUE(contains(text.out, "rms_norm_backward"));
  expect_refused({"bench", "ops", "--config", "tiny.yaml", "--op", "norms"}, 2, {"did you mean norm"});
}

}  // namespace
}  // namespace t6::test
