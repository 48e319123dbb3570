// t6 eval --tasks, t6 scores and the config section scores, on a tiny model.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "support/events.h"

namespace t6::test {
namespace {

using nlohmann::json;

const char* const kConfig = R"(model:
  attention: gqa
  layers: 1
  width: 16
  heads: 2
  head_width: 8
  vocab_size: 320
  context: 64
  gqa: {kv_heads: 1}
data:
  train: [data/tiny_train_*.bin]
  tokenizer: t.tiktoken
train: {steps: 6, global_batch: 4, micro_batch: 4}
optimizer: {lr: 1.0e-2, min_lr: 1.0e-3}
schedule: {warmup_steps: 1}
checkpoint: {every: 3}
run: {threads: 1}
)";

class TaskCommands : public Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    write("text.txt", small_text());
    write("tiny.yaml", kConfig);
    expect_ok({"tokenizer", "train", "--input", "text.txt", "--vocab", "300", "--out", "t.tiktoken"});
    expect_ok({"tokenize", "--tokenizer", "t.tiktoken", "--out", "data/tiny", "--separator", "\\n", "text.txt"});
    std::string piqa, lambada;
    for (int i = 0; i < 30; ++i) {
      piqa +=
          R"({"goal":"the cat","sol1":"sees )" + std::to_string(i) + R"(","sol2":"likes an apple","label":1})" + "\n";
      lambada += R"({"text":"the cat sees the )" + std::string(i % 2 == 0 ? "river" : "garden") + "\"}\n";
    }
    write("tasks/piqa.jsonl", piqa);
    write("tasks/lambada_openai.jsonl", lambada);
  }
  Outcome expect_ok(const std::vector<std::string>& arguments) {
    Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << arguments.front() << ": " << outcome.err;
    return outcome;
  }
  void expect_refused(const std::vector<std::string>& arguments, int code, const std::string& message) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, message));
  }
  std::vector<json> score_lines(const std::string& folder) const {
    std::vector<json> lines;
    std::istringstream text(read(folder + "/metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      const json parsed = json::parse(line);
      if (parsed.at("kind") == "score") lines.push_back(parsed);
    }
    return lines;
  }
};

TEST_F(TaskCommands, ScoreCompareAndRefuse) {
  expect_ok({"train", "--config", "tiny.yaml"});
  const std::vector<std::string> eval{"eval",   "runs/tiny", "--tasks",  "piqa,lambada",
                                      "--data", "tasks",     "--device", "cpu"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), eval.begin(), eval.end());
    return more;
  };
  const Outcome table = expect_ok(with({"--out", "a"}));
  EXPECT_TRUE(contains(table.out, "piqa"));
  EXPECT_TRUE(contains(table.out, "perplexity"));
  const std::string items = read("a/piqa.jsonl");
  EXPECT_EQ(std::count(items.begin(), items.end(), '\n'), 31);
  const json first = json::parse(expect_ok(with({"--out", "a", "--json"})).out);
  EXPECT_EQ(first.at("tasks").at("piqa").at("items"), 30);
  EXPECT_TRUE(first.at("tasks").at("piqa").contains("acc_norm"));
  EXPECT_TRUE(first.at("tasks").at("lambada").contains("perplexity"));
  EXPECT_EQ(first.at("average"), first.at("tasks").at("piqa").at("acc_norm"));
  EXPECT_EQ(read("a/piqa.jsonl"), items);

  // An earlier checkpoint has other scores, and may not go on in the same folder.
  std::vector<std::string> earlier = with({"--out", "b"});
  earlier[1] = "runs/tiny/checkpoints/step-00000003";
  expect_ok(earlier);
  earlier.back() = "a";
  expect_refused(earlier, 3, "holds results of something else");
  const json compared = json::parse(expect_ok({"scores", "compare", "a", "b", "--json"}).out);
  EXPECT_EQ(compared.at("comparisons").size(), 4u);  // piqa by acc_norm and acc, lambada by acc and log probability
  EXPECT_TRUE(contains(expect_ok({"scores", "compare", "a", "b"}).out, "only A"));

  // Few shots, fewer items.
  const json shots = json::parse(expect_ok(with({"--shots", "1", "--limit", "5", "--json"})).out);
  EXPECT_EQ(shots.at("tasks").at("piqa").at("items"), 5);
  EXPECT_NE(shots.at("tasks").at("lambada").at("perplexity"), first.at("tasks").at("lambada").at("perplexity"));

  expect_refused({"eval", "runs/tiny", "--tasks", "hellaswagg", "--data", "tasks"}, 2, "did you mean hellaswag?");
  expect_refused({"eval", "runs/tiny", "--tasks", "piqa,piqa", "--data", "tasks"}, 2, "named twice");
  expect_refused({"eval", "runs/tiny", "--tasks", "piqa"}, 2, "--tasks needs --data");
  expect_refused({"eval", "runs/tiny", "--tasks", "mmlu", "--data", "tasks"}, 3, "looked for mmlu.jsonl");
  expect_refused({"eval", "runs/tiny", "--tasks", "", "--data", "tasks"}, 2, "--tasks: expected arc_easy, ");
  for (const char* option : {"--out", "--shots", "--limit", "--seed", "--tokenizer"}) {
    expect_refused({"eval", "runs/tiny", option, "3"}, 2, "--tasks");
  }
  expect_ok({"eval", "runs/tiny", "--tasks", "piqa, lambada", "--data", "tasks", "--limit", "1"});
  expect_refused({"eval", "runs/tiny", "--tasks", "piqa", "--data", "t.tiktoken"}, 3, "is a file; expected the folder");
  write("long/piqa.jsonl", R"({"goal":"g","sol1":")" + std::string(400, '#') + R"(","sol2":"b","label":1})");
  expect_refused({"eval", "runs/tiny", "--tasks", "piqa", "--data", "long"}, 3, "leave the task out");
  expect_refused({"scores", "compare", "a", "nowhere"}, 3, "a holds piqa, lambada; nowhere is not there");
}

// A model of which oneDNN divides the products among threads, and then adds in another order.
TEST_F(TaskCommands, ScoresAreTheSameBytesOnAnyNumberOfRanksOfAsManyThreads) {
  std::string wide = kConfig;
  const auto change = [&](const std::string& from, const std::string& to) {
    ASSERT_NE(wide.find(from), std::string::npos) << from;
    wide.replace(wide.find(from), from.size(), to);
  };
  change("width: 16", "width: 768");
  change("heads: 2", "heads: 12");
  change("head_width: 8", "head_width: 64");
  change("attention: gqa", "attention: mha");
  change("  gqa: {kv_heads: 1}\n", "");
  change("steps: 6, global_batch: 4, micro_batch: 4", "steps: 1, global_batch: 1, micro_batch: 1");
  change("{warmup_steps: 1}", "{warmup_steps: 0}");
  write("wide.yaml", wide);
  expect_ok({"train", "--config", "wide.yaml"});
  const auto eval = [&](const std::string& threads, const std::string& out, bool launched) {
    std::vector<std::string> words{"eval", "runs/wide", "--tasks", "piqa,lambada", "--out",
                                   out,    "--data",    "tasks",   "--device",     "cpu"};
    if (launched) words.insert(words.begin(), {"launch", "--nproc", "2", "--"});
    const double started = seconds_now();
    return finish_program(start_program(program(), words, folder(), {{"OMP_NUM_THREADS", threads}}), folder(), started);
  };
  for (const std::string threads : {"1", "2"}) {
    EXPECT_EQ(eval(threads, "alone" + threads, false).code, 0);
    EXPECT_EQ(eval(threads, "ranks" + threads, true).code, 0);
    for (const std::string task : {"/piqa.jsonl", "/lambada.jsonl"}) {
      EXPECT_FALSE(read("alone" + threads + task).empty());
      EXPECT_EQ(read("alone" + threads + task), read("ranks" + threads + task)) << threads << task;
    }
  }
  EXPECT_EQ(json::parse(read("alone2/piqa.jsonl").substr(0, read("alone2/piqa.jsonl").find('\n'))).at("device"), "cpu");
  // What is there of one number of threads is not gone on with by another.
  const Outcome other = eval("2", "ranks1", false);
  EXPECT_EQ(other.code, 3);
  EXPECT_TRUE(contains(other.err, "\"threads\" is 1 there and 2 here"));
}

TEST_F(TaskCommands, TrainingScoresAndKeepsItsBits) {
  const std::vector<std::string> scores{"scores.tasks=[piqa,lambada]", "scores.data=tasks", "scores.every=2",
                                        "scores.limit=10"};
  const auto train = [&](const std::string& dir, std::vector<std::string> more) {
    std::vector<std::string> words{"train", "--config", "tiny.yaml", "run.dir=" + dir};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const auto scored = [&](std::vector<std::string> more) {
    more.insert(more.begin(), scores.begin(), scores.end());
    return more;
  };
  expect_ok(train("plain", {}));
  expect_ok(train("scored", scored({})));
  const std::vector<json> lines = score_lines("scored");
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_EQ(lines[0].at("step"), 2);
  EXPECT_EQ(lines[5].at("step"), 6);
  EXPECT_EQ(lines[0].at("task"), "piqa");
  EXPECT_EQ(lines[5].at("task"), "lambada");
  EXPECT_EQ(lines[0].at("items"), 10);
  // Without these lines the logs are the same bytes.
  std::string rest;
  std::istringstream text(read("scored/metrics.jsonl"));
  for (std::string line; std::getline(text, line);) {
    if (json::parse(line).at("kind") != "score") rest += line + "\n";
  }
  EXPECT_EQ(rest, read("plain/metrics.jsonl"));
  // The same numbers as curves.
  using Curves = std::map<std::string, std::map<uint64_t, float>>;
  Curves expected, drawn;
  for (const json& line : lines) {
    for (const char* key : {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "perplexity", "perplexity_stderr"}) {
      if (!line.contains(key)) continue;
      expected["score/" + line.at("task").get<std::string>() + "/" + key][line.at("step")] = line.at(key).get<float>();
    }
  }
  EXPECT_EQ(expected.size(), 8u);
  for (const auto& file : std::filesystem::directory_iterator(folder() / "scored/tensorboard")) {
    for (const Message& event : read_events(file.path())) {
      if (!event.has(5)) continue;
      for (const Message& value : event.message(5).messages(1)) {
        if (value.bytes(1).starts_with("score/")) drawn[value.bytes(1)][event.number(2)] = simple_value(value);
      }
    }
  }
  EXPECT_EQ(drawn, expected);
  // What t6 eval says of the last checkpoint.
  const json eval = json::parse(expect_ok({"eval", "scored", "--tasks", "piqa,lambada", "--data", "tasks", "--limit",
                                           "10", "--device", "cpu", "--json"})
                                    .out);
  EXPECT_EQ(eval.at("tasks").at("piqa").at("acc"), lines[4].at("acc"));
  EXPECT_NEAR(eval.at("tasks").at("lambada").at("perplexity").get<double>(), lines[5].at("perplexity").get<double>(),
              1e-3 * lines[5].at("perplexity").get<double>());

  // Stopped on the way, after a step that is scored anyway, and gone on with: the same log.
  expect_ok(train("resumed", scored({"train.steps=4", "schedule.kind=constant"})));
  expect_ok(train("resumed", scored({"schedule.kind=constant"})));
  expect_ok(train("straight", scored({"schedule.kind=constant"})));
  EXPECT_EQ(read("resumed/metrics.jsonl"), read("straight/metrics.jsonl"));

  expect_refused(train("bad", {"scores.tasks=[piqa]"}), 2, "expected scores.data");
  expect_refused(train("bad", {"scores.data=tasks"}), 2, "expected scores.tasks");
  expect_refused(train("bad", {"scores.tasks=[piq]", "scores.data=tasks"}), 2, "piq");
  expect_refused(train("bad", {"scores.tasks=[mmlu]", "scores.data=tasks"}), 3, "looked for mmlu.jsonl");
  write("tasks/sciq.jsonl", "{\"question\":5}\n");
  expect_refused(train("bad", {"scores.tasks=[sciq]", "scores.data=tasks"}), 3, "tasks/sciq.jsonl:1: no key");
  EXPECT_EQ(read("bad/metrics.jsonl"), "");
}

}  // namespace
}  // namespace t6::test
