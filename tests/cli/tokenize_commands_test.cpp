// t6 tokenizer, tokenize and bench tokenizer on text made here.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>

#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace t6::test {
namespace {

using nlohmann::json;

class TokenizeCommands : public Program {
 protected:
  void learn() {
    write("text.txt", small_text());
    const Outcome outcome =
        run({"tokenizer", "train", "--input", "text.txt", "--vocab", "300", "--out", "t.tiktoken", "--quiet"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
  }
};

TEST_F(TokenizeCommands, LearnsAVocabularyAndDescribesIt) {
  learn();
  const Outcome info = run({"tokenizer", "info", "t.tiktoken", "--json"});
  ASSERT_EQ(info.code, 0) << info.err;
  const json facts = json::parse(info.out);
  EXPECT_EQ(facts.at("vocab_size"), 300);
  EXPECT_EQ(facts.at("end_of_text"), 299);
  EXPECT_EQ(facts.at("hash").get<std::string>().size(), 16);
  EXPECT_TRUE(contains(run({"tokenizer", "info", "t.tiktoken"}).out, facts.at("hash")));
}

TEST_F(TokenizeCommands, KeepsAnExistingFileUnlessToldOtherwise) {
  learn();
  const std::string before = read("t.tiktoken");
  const std::vector<std::string> again{"tokenizer", "train", "--input", "text.txt",
                                       "--vocab",   "280",   "--out",   "t.tiktoken"};
  const Outcome refused = run(again);
  EXPECT_EQ(refused.code, 2);
  EXPECT_TRUE(contains(refused.err, "--overwrite"));
  EXPECT_EQ(read("t.tiktoken"), before);
  std::vector<std::string> over = again;
  over.push_back("--overwrite");
  EXPECT_EQ(run(over).code, 0);
  EXPECT_NE(read("t.tiktoken"), before);
}

// The writer of the pipe neither writes nor ends: the error does not wait for it.
TEST_F(TokenizeCommands, AnErrorEndsTheReadingOfAnOpenPipe) {
  learn();
  const std::string pipe = folder() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const pid_t writer = ::fork();
  if (writer == 0) {
    std::string text = "this is no JSON\n";  // one block of 1 MiB, and a part of the next
    while (text.size() < (3 << 19)) text += "{\"text\": \"the cat sees the river\"}\n";
    const int file = ::open(pipe.c_str(), O_WRONLY);
    for (std::string_view rest = text; !rest.empty();) {
      const ssize_t n = ::write(file, rest.data(), rest.size());
      if (n <= 0) ::_exit(1);
      rest.remove_prefix(static_cast<size_t>(n));
    }
    ::pause();
    ::_exit(0);
  }
  const pid_t child =
      start({"tokenize", "--tokenizer", "t.tiktoken", "--out", "data/x", "--format", "jsonl", "-"}, pipe);
  int status = 0;
  pid_t ended = 0;
  for (int i = 0; i < 3000 && ended == 0; ++i) {
    ::usleep(10'000);
    ended = ::waitpid(child, &status, WNOHANG);
  }
  ::kill(writer, SIGKILL);
  ::waitpid(writer, nullptr, 0);
  if (ended == 0) {
    ::waitpid(child, nullptr, 0);
    FAIL() << "still waits for its input after 30 s";
  }
  EXPECT_EQ(WEXITSTATUS(status), 3) << read(test::kStandardError);
  EXPECT_TRUE(contains(read(test::kStandardError), "standard input:1: this line is not valid JSON"));
}

TEST_F(TokenizeCommands, TurnsTextAndJsonLinesIntoShards) {
  learn();
  write("more.jsonl", "{\"body\":\"the cat sees the river.\"}\n{\"body\":\"my sister likes an apple.\"}\n");
  const Outcome bin = run({"tokenize", "--tokenizer", "t.tiktoken", "--out", "data/tiny", "--separator", "\\n",
                           "text.txt", "more.jsonl", "--jsonl-field", "body", "--val-fraction", "0.1"});
  ASSERT_EQ(bin.code, 0) << bin.err;
  EXPECT_TRUE(contains(bin.out, "data/tiny_val_000000.bin"));
  EXPECT_TRUE(contains(bin.out, "data/tiny_train_000001.bin"));
  EXPECT_TRUE(contains(bin.err, "402 documents"));
  EXPECT_TRUE(std::filesystem::exists(folder() / "data/tiny_train_000001.bin"));

  const Outcome again = run({"tokenize", "--tokenizer", "t.tiktoken", "--out", "data/tiny", "text.txt"});
  EXPECT_EQ(again.code, 2) << "shards of that name are there";
  const Outcome h5 = run({"tokenize", "--tokenizer", "t.tiktoken", "--out", "tiny", "text.txt", "--shard-form", "h5",
                          "--val-tokens", "0", "--shard-tokens", "1e3", "--quiet"});
  ASSERT_EQ(h5.code, 0) << h5.err;
  EXPECT_EQ(h5.err, "");
  EXPECT_TRUE(contains(h5.out, "tiny_train_000002.h5"));
  EXPECT_TRUE(contains(h5.out, "1,000"));
}

// Standard input has no name to tell its format by.
TEST_F(TokenizeCommands, JsonLinesOnStandardInputAreNoticed) {
  write("text.txt", small_text());
  std::string lines;
  for (int i = 0; i < 50; ++i) lines += "{\"id\": 1, \"text\": \"the cat sees the river\"}\n";
  write("lines", lines);
  write("lines.jsonl", lines);
  ASSERT_EQ(run({"tokenizer", "train", "--input", "lines.jsonl", "--vocab", "265", "--out", "named.tiktoken"}).code, 0);
  const std::string input = (folder() / "lines").string();
  for (const char* format : {"auto", "jsonl"}) {
    const Outcome learnt = finish(start({"tokenizer", "train", "--input", "-", "--vocab", "265", "--out",
                                         "piped.tiktoken", "--overwrite", "--format", format},
                                        input));
    EXPECT_EQ(learnt.code, 0) << learnt.err;
    EXPECT_EQ(read("piped.tiktoken"), read("named.tiktoken"));
    EXPECT_EQ(learnt.err.find("is read as JSON lines") != std::string::npos, std::string(format) == "auto");
  }
  const std::vector<std::string> tokenize{"tokenize", "--tokenizer", "named.tiktoken",
                                          "--out",    "data/x",      "--overwrite"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), tokenize.begin(), tokenize.end());
    return finish(start(more, input));
  };
  EXPECT_TRUE(contains(with({"-"}).err, "50 documents"));
  const Outcome text = with({"--format", "text", "-"});
  EXPECT_TRUE(contains(text.err, "1 document ("));
  EXPECT_TRUE(contains(with({"lines"}).err, "looks like JSON lines and is read as text"));
  // Text that only begins with a brace is text.
  write("lines", "{ a set }\n" + small_text());
  EXPECT_TRUE(contains(with({"-"}).err, "1 document ("));
}

TEST_F(TokenizeCommands, ExitCodesOfBadInput) {
  learn();
  const auto refused = [&](const std::vector<std::string>& arguments, int code, const std::string& message) {
    const auto before = files();
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, message));
    EXPECT_EQ(files(), before) << "nothing is left behind";
  };
  write("empty.txt", "");
  write("blank.txt", " \n \n");
  write("bad.jsonl", "{\"text\":\"good\"}\n{\"text\":5}\n");
  write("bad.tiktoken", "not a rank file\n");
  refused({"tokenizer", "train", "--input", "missing.txt", "--vocab", "300", "--out", "x"}, 3, "missing.txt");
  refused({"tokenizer", "train", "--input", "empty.txt", "--vocab", "300", "--out", "x"}, 3, "");
  refused({"tokenizer", "train", "--input", "text.txt", "--vocab", "90000", "--out", "x"}, 3, "");
  refused({"tokenize", "--tokenizer", "t.tiktoken", "--out", "x", "missing.txt"}, 3, "missing.txt");
  refused({"tokenize", "--tokenizer", "t.tiktoken", "--out", "x", "empty.txt"}, 3, "");
  refused({"tokenize", "--tokenizer", "t.tiktoken", "--out", "x", "blank.txt"}, 3, "");
  refused({"tokenize", "--tokenizer", "t.tiktoken", "--out", "x", "bad.jsonl"}, 3, "bad.jsonl:2");
  refused({"tokenize", "--tokenizer", "bad.tiktoken", "--out", "x", "text.txt"}, 3, "bad.tiktoken");
  refused({"tokenize", "--tokenizer", "missing.tiktoken", "--out", "x", "text.txt"}, 3, "missing.tiktoken");
  refused({"tokenize", "--tokenizer", "t.tiktoken", "--out", "x", "text.txt", "--separator", "\\q"}, 2, "--separator");
  refused({"tokenize", "--tokenizer", "t.tiktoken", "--out", "x/", "text.txt"}, 2, "--out");
  refused({"tokenizer", "info", "missing.tiktoken"}, 3, "missing.tiktoken");
}

TEST_F(TokenizeCommands, BenchPrintsOneJsonDocument) {
  learn();
  const Outcome own =
      run({"bench", "tokenizer", "text.txt", "--tokenizer", "t.tiktoken", "--seconds", "0.01", "--json"});
  ASSERT_EQ(own.code, 0) << own.err;
  const json facts = json::parse(own.out);
  EXPECT_EQ(facts.at("bytes"), small_text().size());
  EXPECT_GT(facts.at("mb_per_second"), 0);
  EXPECT_EQ(facts.at("vocab_size"), 300);
}

}  // namespace
}  // namespace t6::test
