// The command line itself: help, version, tour, misspelt words, exit codes of what cannot be understood.
#include <gtest/gtest.h>

#include <algorithm>

#include "cli/program.h"

namespace t6::test {
namespace {

using CommandLine = Program;

TEST_F(CommandLine, AloneGivesATourAndHelpListsTheCommands) {
  const Outcome tour = run({});
  EXPECT_EQ(tour.code, 0);
  EXPECT_TRUE(contains(tour.out, "t6 tokenizer train"));
  EXPECT_TRUE(contains(tour.out, "t6 train --config"));
  EXPECT_EQ(tour.err, "");
  const Outcome help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* command : {"tokenizer", "tokenize", "checkpoint", "bench", "config", "help"}) {
    EXPECT_TRUE(contains(help.out, std::string("\n  ") + command + " "));
  }
}

TEST_F(CommandLine, NamesTooLongForTheDiskAreInputOutputErrors) {
  const std::string name(300, 'x');
  write("text.txt", small_text());
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"tokenizer", "train", "--input", "text.txt", "--vocab", "300", "--out", name},
           {"tokenizer", "train", "--input", "text.txt", "--vocab", "300", "--out", name + "/x.tiktoken"},
           {"plot", name},
           {"plot", name + "/metrics.jsonl"},
       }) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 6) << arguments[0] << "\n" << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "File name too long"));
  }
}

// Calls of std::filesystem that throw themselves: here the present folder, which is no more.
TEST_F(CommandLine, WhatTheFileSystemThrowsIsAnInputOutputError) {
  const std::string command = "cd '" + folder().string() + "' && mkdir gone && cd gone && rmdir ../gone && exec '" +
                              program() + "' shards 'nowhere_*.bin' 2> '" + (folder() / "err").string() + "'";
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 6) << read("err");
  EXPECT_FALSE(contains(read("err"), "bug"));
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_F(CommandLine, OutOfMemorySaysWhatToDo) {
  const std::string command = std::string("ulimit -v 2000000; exec '") + program() + "' bench train --config '" +
                              T6_SOURCE_DIR + "/configs/t6_mha_xl.yaml' --steps 1 2> '" + (folder() / "err").string() +
                              "'";
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 6) << read("err");
  EXPECT_TRUE(contains(read("err"), "out of memory"));
  EXPECT_TRUE(contains(run({"--help"}).out, "out of memory"));
}
#endif

TEST_F(CommandLine, VersionSaysCommitAndBuild) {
  const Outcome version = run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_TRUE(contains(version.out, "t6 0."));
  EXPECT_TRUE(contains(version.out, "commit "));
  EXPECT_TRUE(contains(version.out, "CUDA"));
}

TEST_F(CommandLine, EveryHelpNamesItsOptionsAndHasAnExample) {
  const std::vector<std::vector<std::string>> commands{
      {},
      {"train"},
      {"launch"},
      {"eval"},
      {"generate"},
      {"logits"},
      {"info"},
      {"plot"},
      {"tokenizer"},
      {"tokenizer", "train"},
      {"tokenizer", "info"},
      {"tokenize"},
      {"checkpoint"},
      {"checkpoint", "list"},
      {"checkpoint", "verify"},
      {"checkpoint", "inspect"},
      {"bench"},
      {"bench", "train"},
      {"bench", "ops"},
      {"bench", "decode"},
      {"bench", "tokenizer"},
      {"bench", "matmul"},
      {"plan"},
      {"config"},
      {"config", "help"},
      {"help"},
  };
  for (std::vector<std::string> command : commands) {
    std::string path = "t6";
    for (const std::string& word : command) path += " " + word;
    std::vector<std::string> by_help_command{"help"};
    by_help_command.insert(by_help_command.end(), command.begin(), command.end());
    command.push_back("--help");
    const Outcome help = run(command);
    EXPECT_EQ(help.code, 0) << path;
    EXPECT_TRUE(contains(help.out, path + ": "));
    EXPECT_TRUE(contains(help.out, "Usage: " + path));
    EXPECT_TRUE(contains(help.out, "\nExample:\n  "));
    EXPECT_EQ(help.err, "");
    if (path != "t6 config") {
      EXPECT_EQ(run(by_help_command).out, help.out) << path;
    }
  }
}

TEST_F(CommandLine, HelpConfigListsEveryKey) {
  const Outcome help = run({"help", "config"});
  EXPECT_EQ(help.code, 0);
  for (const char* key : {"warmup_steps", "rank_q", "global_batch", "keep_last"}) EXPECT_TRUE(contains(help.out, key));
  EXPECT_EQ(run({"config", "help"}).out, help.out);
}

TEST_F(CommandLine, HelpOfASectionOrAKeyOfAConfig) {
  const Outcome section = run({"help", "optimizer"});
  EXPECT_EQ(section.code, 0) << section.err;
  EXPECT_EQ(section.out.find("optimizer: AdamW\n"), 0U) << section.out;
  EXPECT_TRUE(contains(section.out, "\n  weight_decay "));
  EXPECT_FALSE(contains(section.out, "warmup_steps"));
  EXPECT_EQ(run({"config", "help", "optimizer"}).out, section.out);
  EXPECT_EQ(run({"help", "config", "optimizer"}).out, section.out);
  // As the whole table says it, but for the width of its columns.
  const std::string meaning = "peak learning rate\n";
  EXPECT_TRUE(contains(section.out, meaning));
  EXPECT_TRUE(contains(run({"help", "config"}).out, meaning));

  const Outcome key = run({"help", "train.steps"});
  EXPECT_EQ(key.code, 0) << key.err;
  EXPECT_EQ(key.out.find("train: the training loop\n  steps  integer in"), 0U) << key.out;
  EXPECT_EQ(std::count(key.out.begin(), key.out.end(), '\n'), 2) << key.out;
  // A section with those below it, and every key of a name.
  const std::string model = run({"help", "model"}).out, ranks = run({"help", "rank_k"}).out;
  EXPECT_TRUE(contains(model, "\n  layers ") && contains(model, "\nmodel.mla: ")) << model;
  EXPECT_FALSE(contains(model, "optimizer"));
  EXPECT_EQ(run({"help", "model.tpa"}).out.find("model.tpa: "), 0U);
  EXPECT_FALSE(contains(run({"help", "model.tpa"}).out, "tpa_kvonly"));
  EXPECT_TRUE(contains(ranks, "model.tpa: ") && contains(ranks, "\nmodel.tpa_kvonly: ")) << ranks;
  EXPECT_EQ(run({"help", "model."}).code, 2);
  // A command goes before a section of that name, whose keys `config` asks for.
  EXPECT_TRUE(contains(run({"help", "train"}).out, "Usage: t6 train"));
  EXPECT_TRUE(contains(run({"help", "config", "train"}).out, "train: the training loop\n"));
}

TEST_F(CommandLine, SuggestsTheNearestWord) {
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& message) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << message;
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(contains(outcome.err, message));
  };
  refused({"tokenise"}, "there is no command 'tokenise'; did you mean tokenize?");
  refused({"checkpoint", "verfy", "x"}, "checkpoint: there is no command 'verfy'; did you mean verify?");
  refused({"tokenize", "--tokeniser", "x"}, "tokenize: there is no option '--tokeniser'; did you mean --tokenizer?");
  refused({"tokenizer", "train", "--vocabulary=3"}, "there is no option '--vocabulary'");
  refused({"tokenize", "a", "--tokenizer", "t", "--out", "o", "--format", "json"},
          "--format: expected auto, text, jsonl, got 'json'; did you mean jsonl?");
  refused({"tokenizer", "train", "--input", "x", "--out", "y", "--vocab", "12"},
          "--vocab: expected an integer from 257 to 1000000, got '12'");
  refused({"tokenizer", "train", "--input", "x", "--out", "y", "--vocab", "many"}, "got 'many'");
  refused({"tokenizer", "train", "--vocab", "300", "--out", "y"}, "--input is required");
  refused({"export", "run", "--out", "x", "--dtype", "fp16"},
          "--dtype: expected f32, bf16, got 'fp16'; did you mean bf16?");
  refused({"generate", "run", "--precision", "half"}, "did you mean bf16?");
  refused({"generate", "run", "--device", "gpu"}, "--device: expected auto, cpu, cuda, got 'gpu'; did you mean cuda?");
  refused({"generate", "run", "--precision", "FP32"}, "did you mean f32?");
  refused({"eval", "run", "--tasks"}, "eval: --tasks: expected a value, got none (`t6 eval --help` explains)");
  refused({"generate", "run", "--seed"}, "generate: --seed: expected a value, got none");
  refused({"generate", "run", "--seed", "1", "--seed", "2"}, "generate: --seed: expected once, got 2 times");
  refused({"tokenizer"}, "tokenizer: expected a command: train, info");
  refused({"checkpoint", "list", "a", "b"}, "checkpoint list: did not expect 'b'");
  refused({"help", "scoers"}, "help: there is no command 'scoers', nor such a key of a config; did you mean scores?");
  refused({"help", "checkpoint", "verfy"}, "help: there is no command 'verfy'; did you mean verify?");
  refused({"help", "optimiser"}, "did you mean optimizer?");
  refused({"config", "help", "train.stepps"},
          "config help: a config has neither section nor key 'train.stepps'; did you mean train.steps?");
  refused({"--quite"}, "there is no option '--quite'");
}

TEST_F(CommandLine, EveryListOptionIsExplainedAndCheckedAlike) {
  std::filesystem::create_directory(folder() / "scored");
  for (const auto& [command, option] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"bench", "decode"}, "--kinds KIND,..."},
           {{"bench", "decode"}, "--lengths N,..."},
           {{"bench", "decode"}, "--precision TYPE,..."},
           {{"bench", "ops"}, "--op NAME,..."},
           {{"eval", "scored"}, "--tasks NAME,..."},
           {{"logits", "scored", "--out", "x"}, "--ids ID,..."},
           {{"plan"}, "--gpus --ranks N,..."},
           {{"plan"}, "--nodes N,..."},
       }) {
    std::vector<std::string> help = command, wrong = command;
    help.push_back("--help");
    const std::string text = run(help).out, name = option.substr(0, option.find(' '));
    ASSERT_TRUE(contains(text, "\n  " + option + " ") || contains(text, "\n  " + option + "\n")) << text;
    std::string words = text.substr(text.find("\n  " + option));
    words = words.substr(0, words.find("\n  -", 1));
    words.erase(
        std::unique(words.begin(), words.end(), [](char a, char b) { return std::isspace(a) && std::isspace(b); }),
        words.end());
    std::replace(words.begin(), words.end(), '\n', ' ');
    EXPECT_TRUE(contains(words, "several with commas or blanks between them")) << words;
    wrong.insert(wrong.end(), {name, "1", "wrong,,"});
    const Outcome refused = run(wrong);
    EXPECT_EQ(refused.code, 2) << name;
    EXPECT_EQ(refused.err.find("t6: " + command[0]), 0U) << refused.err;
    EXPECT_TRUE(contains(refused.err, name + ": expected ")) << refused.err;
  }
  // A run is no task, though it comes behind the tasks.
  EXPECT_EQ(run({"eval", "--tasks", "piqa", "boolq", "scored", "--data", "scored"}).code, 4);
  EXPECT_TRUE(contains(run({"eval", "--tasks", "piqa", "boolqq", "--data", "x"}).err, "did you mean boolq?"));
}

TEST_F(CommandLine, AFolderForAFileIsSaidBeforeTheWork) {
  std::filesystem::create_directories(folder() / "run");
  write("run/resolved.yaml", "train: {steps: 5}\n");
  write("text.txt", small_text());
  const auto refused = [&](const std::vector<std::string>& arguments, int code, const std::string& message) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << message;
    EXPECT_EQ(outcome.err, "t6: " + message + "\n");
  };
  refused({"train", "run"}, 2,
          "run: expected a config file, got a folder; the config of this run is run/resolved.yaml");
  refused({"bench", "train", "--config", "."}, 2, ".: expected a config file, got a folder");
  refused({"tokenizer", "info", "run"}, 3,
          "run: expected a tokenizer file, got a folder; name the .tiktoken, tokenizer.json or vocab.json in it");
  refused({"tokenizer", "train", "--input", "text.txt", "--vocab", "300", "--out", "run", "--overwrite"}, 2,
          "--out: expected the name of a file to write, got the folder run");
}

TEST_F(CommandLine, AFileMayBeCalledAsACommandIs) {
  write("text.txt", small_text());
  write("train", small_text());
  ASSERT_EQ(run({"tokenizer", "train", "--input", "text.txt", "--vocab", "300", "--out", "info"}).code, 0);
  EXPECT_EQ(run({"tokenizer", "info", "info"}).code, 0);
  const Outcome outcome = run({"tokenize", "--tokenizer", "info", "--out", "eval", "text.txt", "train"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

TEST_F(CommandLine, SaysWhenItsOutputCannotBeWritten) {
  const pid_t child = ::fork();
  if (child == 0) {
    const int full = ::open("/dev/full", O_WRONLY), null = ::open("/dev/null", O_WRONLY);
    ::dup2(full, 1);
    ::dup2(null, 2);
    ::execl(program(), program(), "--help", nullptr);
    ::_exit(99);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 6);
}

}  // namespace
}  // namespace t6::test
