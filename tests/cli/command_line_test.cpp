// The command line itself: help, version, tour, misspelt words, exit codes of what cannot be understood.
#include <gtest/gtest.h>

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
                              T6_PROGRAM + "' shards 'nowhere_*.bin' 2> '" + (folder() / "err").string() + "'";
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 6) << read("err");
  EXPECT_FALSE(contains(read("err"), "bug"));
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_F(CommandLine, OutOfMemorySaysWhatToDo) {
  const std::string command = std::string("ulimit -v 2000000; exec '") + T6_PROGRAM + "' bench train --config '" +
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
  refused({"tokenizer"}, "tokenizer: expected a command: train, info");
  refused({"checkpoint", "list", "a", "b"}, "checkpoint list: did not expect 'b'");
  refused({"help", "trian"}, "there is no command 'trian'");
  refused({"--quite"}, "there is no option '--quite'");
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
    ::execl(T6_PROGRAM, T6_PROGRAM, "--help", nullptr);
    ::_exit(99);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 6);
}

}  // namespace
}  // namespace t6::test
