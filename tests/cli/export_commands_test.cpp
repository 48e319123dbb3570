// t6 export and t6 import as a user runs them: another program's folder and back, and training that begins with it.
#include <fmt/format.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace t6::test {
namespace {

using nlohmann::json;

constexpr const char* kConfig = R"(model:
  attention: {}
  layers: 2
  width: 32
  heads: 4
  head_width: 8
  vocab_size: 320
  context: 32
data:
  train: ["data/text_train_*.bin"]
  validation: ["data/text_val_*.bin"]
  tokenizer: text.tiktoken
train: {{steps: 6, global_batch: 4, micro_batch: 4}}
optimizer: {{lr: 0.01, min_lr: 0.01}}
schedule: {{kind: constant, warmup_steps: 0}}
evaluation: {{every: 0, windows: 4}}
checkpoint: {{every: 0}}
)";

class ExportCommands : public Program {
 protected:
  Outcome expect_ok(const std::vector<std::string>& arguments) {
    Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err << outcome.out;
    return outcome;
  }
  void expect_refused(const std::vector<std::string>& arguments, int code, const std::string& reason) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, reason));
  }
  void train(const std::string& kind) {
    write("text.txt", small_text());
    expect_ok({"tokenizer", "train", "--input", "text.txt", "--vocab", "300", "--out", "text.tiktoken"});
    expect_ok({"tokenize", "--tokenizer", "text.tiktoken", "--out", "data/text", "--separator", "\\n", "text.txt"});
    write("model.yaml", fmt::format(kConfig, kind));
    expect_ok({"train", "--config", "model.yaml", "run.dir=run"});
  }
  json evaluated(const std::string& path) {
    return json::parse(expect_ok({"eval", path, "--json", "--data", "data/text_val_*.bin", "--windows", "4"}).out);
  }
  std::string generated(const std::string& path) {
    return expect_ok({"generate", path, "--prompt", "the cat", "--tokens", "20", "--temperature", "0"}).out;
  }
};

TEST_F(ExportCommands, AModelGoesOutAndComesBack) {
  train("gqa");
  const json first = json::parse(expect_ok({"export", "run", "--out", "hf", "--json"}).out);
  EXPECT_EQ(first.at("format"), "mistral");
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json", "vocab.json", "merges.txt",
                           "tokenizer_config.json", "special_tokens_map.json", "README.md", "run.json"}) {
    EXPECT_FALSE(read(std::string("hf/") + name).empty()) << name;
  }
  EXPECT_TRUE(contains(read("hf/README.md"), "validation loss"));
  EXPECT_FALSE(contains(read("hf/README.md"), folder().string())) << "a path of this machine";
  expect_refused({"export", "run", "--out", "hf"}, 2, "--force");
  expect_ok({"export", "run", "--out", "hf", "--force"});

  expect_ok({"import", "hf", "--out", "runs/back"});
  EXPECT_EQ(evaluated("runs/back").at("loss"), evaluated("run").at("loss"));
  EXPECT_EQ(generated("runs/back"), generated("run"));
  expect_ok({"checkpoint", "verify", "runs/back"});
  expect_ok({"export", "runs/back", "--out", "again"});
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json", "vocab.json", "merges.txt",
                           "tokenizer_config.json", "special_tokens_map.json", "README.md", "run.json"}) {
    EXPECT_EQ(read(std::string("hf/") + name), read(std::string("again/") + name)) << name;
  }
  expect_refused({"import", "hf", "--out", "runs/back"}, 2, "--force");
  expect_refused({"import", "run", "--out", "runs/other"}, 4, "use it directly");
  expect_refused({"import", "run/checkpoints/step-00000006", "--out", "runs/other"}, 4, "use it directly");
  for (const char* command : {"eval", "generate", "export"}) {
    std::vector<std::string> arguments{command, "hf"};
    if (command == std::string("export")) arguments.insert(arguments.end(), {"--out", "x"});
    if (command == std::string("generate")) arguments.insert(arguments.end(), {"--prompt", "the"});
    expect_refused(arguments, 4, "t6 import hf --out");
  }
  write("runs/back/notes.txt", "mine");
  expect_refused({"import", "hf", "--out", "runs/back", "--force"}, 2, "'notes.txt'");
  EXPECT_EQ(read("runs/back/notes.txt"), "mine");
  std::filesystem::remove(folder() / "runs/back/notes.txt");
  expect_ok({"import", "hf", "--out", "runs/back", "--force"});
  expect_refused({"export", "run", "--out", "x", "--llama"}, 2, "--llama is for mha");
  expect_refused({"export", "run", "--out", "x", "--format", "official"}, 2, "--approximate");
  expect_ok({"export", "run", "--out", "official", "--format", "official", "--approximate", "--dtype", "bf16"});
  expect_ok({"import", "official", "--out", "runs/official"});
}

// A pipe in the place of a file, which nobody will write to.
TEST_F(ExportCommands, AnImportWaitsForNoPipe) {
  train("mha");
  expect_ok({"export", "run", "--out", "hf"});
  const auto pipe_for = [&](const char* file) {
    const std::filesystem::path path = folder() / "hf" / file;
    std::filesystem::remove(path);
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  };
  pipe_for("tokenizer.json");
  EXPECT_TRUE(contains(expect_ok({"import", "hf", "--out", "a"}).err, "without its tokenizer: hf/tokenizer.json"));
  std::filesystem::remove(folder() / "hf/tokenizer.json");
  pipe_for("merges.txt");
  EXPECT_TRUE(contains(expect_ok({"import", "hf", "--out", "b"}).err, "hf/merges.txt, which is no file"));
  pipe_for("run.json");
  expect_refused({"import", "hf", "--out", "c"}, 4, "hf/run.json: is no file");
  pipe_for("config.json");
  expect_refused({"import", "hf", "--out", "c"}, 4, "hf/config.json: is no file");
  pipe_for("model.safetensors");
  expect_refused({"import", "hf", "--out", "c"}, 4, "hf/model.safetensors: is no file");
}

TEST_F(ExportCommands, AnImportedRunCanBeMoved) {
  train("gqa");
  expect_ok({"export", "run", "--out", "hf"});
  expect_ok({"import", "hf", "--out", "runs/back/"});
  const std::string text = generated("run");
  std::filesystem::rename(folder() / "runs/back", folder() / "moved");
  write("tasks/sciq.jsonl",
        R"({"question":"the cat","correct_answer":"sees","distractor1":"a","distractor2":"b","distractor3":"c"})"
        "\n");
  for (const char* place : {"moved", "moved/checkpoints", "moved/checkpoints/step-00000000"}) {
    EXPECT_EQ(generated(place), text) << place;
    expect_ok({"eval", place, "--tasks", "sciq", "--data", "tasks"});
    expect_ok({"export", place, "--out", "again", "--force"});
    EXPECT_EQ(read("again/tokenizer.json"), read("hf/tokenizer.json")) << place;
  }
  // Of two copies each has its own; without one in the folder, the path of the config holds.
  std::filesystem::copy(folder() / "moved", folder() / "runs/back", std::filesystem::copy_options::recursive);
  std::filesystem::remove(folder() / "moved/tokenizer.tiktoken");
  EXPECT_EQ(generated("moved"), text);
  write("runs/back/tokenizer.tiktoken", "damaged");
  expect_refused({"generate", "moved", "--prompt", "the"}, 3, "runs/back/tokenizer.tiktoken");
}

TEST_F(ExportCommands, ARunWhoseTokenizerCannotBeExportedGoesOutWithoutIt) {
  train("mha");
  std::filesystem::rename(folder() / "text.tiktoken", folder() / "away");
  expect_refused({"export", "run", "--out", "hf"}, 3, "--no-tokenizer");
  expect_refused({"export", "run", "--out", "hf", "--no-tokenizer", "--tokenizer", "away"}, 2, "--no-tokenizer");
  const Outcome without = expect_ok({"export", "run", "--out", "hf", "--no-tokenizer"});
  EXPECT_TRUE(contains(without.err, "Check bos_token_id and eos_token_id"));
  EXPECT_FALSE(std::filesystem::exists(folder() / "hf/tokenizer.json"));
  EXPECT_TRUE(contains(read("hf/README.md"), "without tokenizer files"));
  expect_ok({"export", "run", "--out", "hf", "--tokenizer", "away", "--force"});
  EXPECT_TRUE(std::filesystem::exists(folder() / "hf/tokenizer.json"));
}

// The ids of a document's ends belong to the model, with files of a tokenizer or without, and so through an import.
TEST_F(ExportCommands, WithoutTokenizerFilesTheEndOfTextIsTheSame) {
  train("mha");
  expect_ok({"export", "run", "--out", "with"});
  expect_ok({"export", "run", "--out", "without", "--no-tokenizer"});
  EXPECT_EQ(json::parse(read("with/config.json")).at("eos_token_id"), 299);
  EXPECT_EQ(read("without/config.json"), read("with/config.json"));
  EXPECT_FALSE(std::filesystem::exists(folder() / "without/tokenizer.json"));
  expect_ok({"import", "without", "--out", "back"});
  expect_ok({"export", "back", "--out", "again"});
  for (const char* name : {"model.safetensors", "config.json", "README.md", "run.json"}) {
    EXPECT_EQ(read(std::string("again/") + name), read(std::string("without/") + name)) << name;
  }
}

TEST_F(ExportCommands, TheTensorProductKindsBringTheirCode) {
  train("tpa");
  expect_ok({"export", "run", "--out", "hf", "--dtype", "bf16"});
  EXPECT_TRUE(contains(read("hf/modeling_t6.py"), "class T6ForCausalLM"));
  EXPECT_TRUE(contains(read("hf/config.json"), "modeling_t6.T6ForCausalLM"));
}

// The validation loss before the first step.
double first_validation(const std::string& metrics) {
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    const json entry = json::parse(line);
    if (entry.at("kind") == "validation" && entry.at("step") == 0) return entry.at("loss");
  }
  ADD_FAILURE() << "no validation at step 0 in:\n" << metrics;
  return 0;
}

TEST_F(ExportCommands, ARunBeginsWithTheWeightsOfAnother) {
  train("mla");
  const double loss = evaluated("run").at("loss");
  expect_ok({"export", "run", "--out", "hf"});
  expect_ok({"import", "hf", "--out", "imported"});
  const std::vector<std::string> more{"train", "--config", "model.yaml", "train.steps=2"};
  const auto with = [&](std::initializer_list<std::string> changes) {
    std::vector<std::string> arguments = more;
    arguments.insert(arguments.end(), changes);
    return arguments;
  };
  expect_ok(with({"run.dir=a", "train.weights=imported"}));
  EXPECT_EQ(first_validation(read("a/metrics.jsonl")), loss);
  expect_ok(with({"run.dir=b", "train.weights=run/checkpoints/step-00000006"}));
  EXPECT_EQ(read("a/metrics.jsonl"), read("b/metrics.jsonl")) << "weights, and nothing else of the run they come from";
  const json facts = json::parse(expect_ok({"checkpoint", "inspect", "a", "--json"}).out).at("facts");
  EXPECT_EQ(facts.at("weights").at("imported").at("format"), "deepseek_v3");

  // Several ranks begin with the same.
  std::vector<std::string> ranks{"launch", "--nproc", "2", "--"};
  for (const std::string& word :
       with({"run.dir=two", "train.weights=imported", "train.micro_batch=2", "run.threads=1"})) {
    ranks.push_back(word);
  }
  expect_ok(ranks);
  EXPECT_NEAR(first_validation(read("two/metrics.jsonl")), loss, 1e-6 * loss);

  expect_refused(with({"run.dir=imported"}), 4, "train.weights=imported");
  expect_refused(with({"run.dir=c", "train.weights=imported", "model.width=40"}), 4, "does not fit the model");
  expect_refused(with({"run.dir=c", "train.weights=nowhere"}), 4, "nowhere");
  expect_refused(with({"run.dir=c", "train.weights=hf"}), 4, "t6 import hf --out");
  expect_refused(with({"run.dir=c", "train.weights=imported", "model.attention=mha"}), 4,
                 "model.attention is mla there, mha here");
  EXPECT_TRUE(contains(expect_ok(with({"run.dir=d", "train.weights=imported", "model.rope_theta=500"})).err,
                       "model.rope_theta: 10000 -> 500"));

  // A resumed run has weights of its own, and remembers where they came from.
  std::filesystem::remove_all(folder() / "imported");
  expect_ok(with({"run.dir=a", "train.weights=imported", "train.steps=4"}));
  EXPECT_EQ(json::parse(expect_ok({"checkpoint", "inspect", "a", "--json"}).out).at("facts").at("weights"),
            facts.at("weights"));
}

}  // namespace
}  // namespace t6::test
