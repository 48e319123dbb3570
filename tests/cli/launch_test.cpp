// t6 launch: its words, the exit code of its ranks, and that none is left.
#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <functional>
#include <thread>

#include "cli/launch.h"
#include "cli/program.h"

namespace t6::test {
namespace {

class Launch : public Program {
 protected:
  static size_t count(const std::string& text, const std::string& part) {
    size_t times = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++times;
    return times;
  }
  static bool has_mpirun() { return std::system("command -v mpirun > /dev/null 2>&1") == 0; }

  // Launches with an mpirun that holds `text`.
  Outcome run_with_mpirun(const std::string& text, const std::function<void()>& before = {}) {
    write("bin/mpirun", text);
    std::filesystem::permissions(folder() / "bin/mpirun", std::filesystem::perms::owner_all);
    const double started = seconds_now();
    const pid_t launcher =
        start_program(T6_PROGRAM, {"launch", "--nproc", "2", "--by", "mpi", "train", "--config", "x.yaml"}, folder(),
                      {{"PATH", (folder() / "bin").string() + ":" + std::getenv("PATH")}}, "/dev/null", before);
    return finish_program(launcher, folder(), started);
  }
};

TEST_F(Launch, WordsBehindTheCommandAreItsOwn) {
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"launch", "--nproc", "3", "--by", "variables", "eval", "--help"},
           {"launch", "--by=variables", "--nproc=3", "--", "eval", "--help"},
       }) {
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(count(outcome.out, "Usage: t6 eval"), 1U);
  }
}

// Before there are ranks, so once.
TEST_F(Launch, WordsThatCannotBeUnderstoodAreRefusedOnce) {
  for (const char* by : {"variables", "mpi"}) {
    const Outcome option = run({"launch", "--nproc", "3", "--by", by, "train", "--config", "x.yaml", "--quite"});
    EXPECT_EQ(option.code, 2);
    EXPECT_EQ(option.err,
              "t6: train: there is no option '--quite'; did you mean --quiet? (`t6 train --help` lists what "
              "there is)\n");
    const Outcome value = run({"launch", "--nproc", "3", "--by", by, "eval", "run", "--shots", "-1"});
    EXPECT_EQ(value.code, 2);
    EXPECT_EQ(count(value.err, "t6: "), 1U) << value.err;
    EXPECT_TRUE(contains(value.err, "--shots")) << value.err;
  }
}

TEST_F(Launch, WhatIsMissingIsSaid) {
  const Outcome no_command = run({"launch", "--nproc", "2"});
  EXPECT_EQ(no_command.code, 2);
  EXPECT_TRUE(contains(no_command.err, "expected a command of t6 to start"));
  const Outcome no_number = run({"launch", "train", "x.yaml"});
  EXPECT_EQ(no_number.code, 2);
  EXPECT_TRUE(contains(no_number.err, "--nproc is required"));
  EXPECT_EQ(run({"launch", "--nproc", "0", "train"}).code, 2);
  EXPECT_EQ(run({"launch", "--nproc"}).code, 2);
}

// On a host with GPUs it decides who starts the ranks: mpirun those that compute on the CPU.
TEST_F(Launch, TheDeviceOfAConfigCounts) {
  write("cpu.yaml", "run: {device: cpu}\n");
  write("auto.yaml", "train: {steps: 5000}\n");
  write("bad.yaml", "run: {device: cpu}\ntrain: {stepz: 5}\n");
  const std::string cpu = (folder() / "cpu.yaml").string(), automatic = (folder() / "auto.yaml").string(),
                    bad = (folder() / "bad.yaml").string();
  using Words = std::vector<std::string>;
  for (const Words& words :
       {Words{"train", "--config", cpu}, Words{"train", cpu, "train.steps=3000", "--quiet"},
        Words{"train", "--config", automatic, "--config=" + cpu},
        Words{"train", "--config", automatic, "run.device=cpu"}, Words{"train", "--config", bad, "run.device=cpu"},
        Words{"eval", "run", "--device", "cpu"}, Words{"eval", "run", "--device=cpu"}}) {
    EXPECT_TRUE(cli::computes_on_cpu(words)) << ::testing::PrintToString(words);
  }
  for (const Words& words :
       {Words{"train", "--config", automatic}, Words{"train", "--config", cpu, "run.device=cuda"},
        Words{"train", "--config", (folder() / "nowhere.yaml").string()}, Words{"eval", "run"}, Words{"train"}}) {
    EXPECT_FALSE(cli::computes_on_cpu(words)) << ::testing::PrintToString(words);
  }
}

TEST_F(Launch, CommandsThatEachRankWouldDoAllOfAreRefused) {
  for (const char* command : {"scores", "generate", "logits", "info", "plot", "tokenizer", "tokenize", "shards",
                              "checkpoint", "export", "import", "bench", "plan", "config", "help", "launch"}) {
    const Outcome outcome = run({"launch", "--nproc", "2", command, "nowhere"});
    EXPECT_EQ(outcome.code, 2) << command;
    EXPECT_EQ(outcome.err, "t6: launch: the work of `t6 " + std::string(command) +
                               "` is not divided among ranks: each would do all of it; run it without launch. Commands "
                               "that divide their work: train and eval\n");
    EXPECT_EQ(outcome.out, "");
  }
  const Outcome misspelt = run({"launch", "--nproc", "2", "trian", "--config", "x.yaml"});
  EXPECT_EQ(misspelt.code, 2);
  EXPECT_EQ(count(misspelt.err, "got 'trian'; did you mean train?"), 1U) << misspelt.err;
}

TEST_F(Launch, TheRanksExitCodeIsReturned) {
  const std::vector<std::string> words{"train", "--config", "nowhere.yaml"};
  const int alone = run(words).code;
  ASSERT_NE(alone, 0);
  for (const char* by : {"variables", "mpi"}) {
    if (by == std::string("mpi") && !has_mpirun()) continue;
    std::vector<std::string> launched{"launch", "--nproc", "2", "--by", by};
    launched.insert(launched.end(), words.begin(), words.end());
    const Outcome outcome = run(launched);
    EXPECT_EQ(outcome.code, alone) << by << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "nowhere"));
    EXPECT_FALSE(contains(outcome.err, "mpirun")) << "its noise";
  }
}

// Ranks that read a pipe which nobody opens for writing would stay for ever.
TEST_F(Launch, SignalsReachTheRanksAndNoneStays) {
  ASSERT_EQ(std::system(("mkfifo '" + (folder() / "pipe").string() + "'").c_str()), 0);
  for (const char* by : {"variables", "mpi"}) {
    if (by == std::string("mpi") && !has_mpirun()) continue;
    const pid_t launcher = start({"launch", "--nproc", "2", "--by", by, "train", "--config", "pipe"});
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    ::kill(launcher, SIGTERM);
    const Outcome outcome = finish(launcher);
    EXPECT_NE(outcome.code, 0) << by;
    EXPECT_LT(outcome.seconds, 15) << by;
    // Every rank's command line names the folder of this test as its own working directory: none is there any more.
    const std::string look =
        "for p in /proc/[0-9]*; do [ \"$(readlink $p/cwd)\" = '" + folder().string() + "' ] && exit 1; done; exit 0";
    EXPECT_EQ(std::system(look.c_str()), 0) << by;
  }
}

TEST_F(Launch, WhatCannotBeStartedIsNamed) {
  if (!has_mpirun()) GTEST_SKIP() << "no MPI";
  const Outcome outcome = run_with_mpirun("no program\n");
  EXPECT_EQ(outcome.code, 127);
  EXPECT_EQ(outcome.err,
            "t6 launch: cannot start " + (folder() / "bin/mpirun").string() + ": " + std::strerror(ENOEXEC) + "\n");
}

TEST_F(Launch, NoFileOfTheLauncherIsLeftOpenInARank) {
  if (!has_mpirun()) GTEST_SKIP() << "no MPI";
  const Outcome outcome = run_with_mpirun("#!/bin/sh\nls -l /proc/$PPID/fd\necho rank\nls -l /proc/$$/fd\n");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const size_t rank = outcome.out.find("rank");
  ASSERT_NE(rank, std::string::npos) << outcome.out;
  const auto nothings = [&](const std::string& text) { return count(text, "-> /dev/null\n"); };
  EXPECT_EQ(nothings(outcome.out.substr(rank)), nothings(outcome.out.substr(0, rank))) << outcome.out;
}

// As under nohup: the launcher hears of a hang-up, and neither it nor a rank ends.
TEST_F(Launch, AnIgnoredSignalStaysIgnored) {
  if (!has_mpirun()) GTEST_SKIP() << "no MPI";
  const std::string script = "#!/bin/sh\ngrep SigIgn: /proc/self/status\nkill -HUP $PPID\nexec sleep 0.5\n";
  EXPECT_EQ(run_with_mpirun(script).code, 128 + SIGTERM);
  const Outcome outcome = run_with_mpirun(script, [] { std::signal(SIGHUP, SIG_IGN); });
  EXPECT_EQ(outcome.code, 0);
  const size_t at = outcome.out.find_first_of("0123456789abcdef", outcome.out.find(':') + 1);
  ASSERT_NE(at, std::string::npos) << outcome.out;
  EXPECT_EQ(std::strtoull(outcome.out.c_str() + at, nullptr, 16) & 1, 1U) << outcome.out;
}

}  // namespace
}  // namespace t6::test
