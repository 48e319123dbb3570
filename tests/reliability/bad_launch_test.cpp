// Launches that cannot work: one message, that of rank 0, the same exit code on all ranks, within seconds.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "dist/mpi.h"
#include "dist/ranks_run.h"
#include "dist/wire.h"
#include "reliability/run_support.h"

namespace t6::test {
namespace {

using data::testing::read_file;
using data::testing::write_file;

class RunBadLaunchHeavy : public RanksTest {
 protected:
  // Each rank by its own words.
  Outcome run_apart(std::vector<std::vector<std::string>> ranks) {
    began_ = seconds_now();
    for (std::vector<std::string>& words : ranks) words = recorded(folder(), words);
    return finish(start_apart(ranks));
  }
  // Of a launch of two ranks. Each ended by itself: a rank that mpirun ends when the other leaves has another code.
  void expect_one_message(const Outcome& outcome, int code, const std::vector<std::string>& parts) const {
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_LT(seconds_now() - began_, kSanitized ? 40 : 15);
    const std::vector<RankEnd> ends = rank_ends(folder(), 2);
    for (const RankEnd& end : ends) EXPECT_TRUE(end.ended_with(code)) << end.code << ": " << end.err;
    EXPECT_TRUE(messages(ends[1].err + outcome.err).empty()) << ends[1].err << outcome.err;
    const std::vector<std::string> said = messages(ends[0].err);
    ASSERT_EQ(said.size(), 1u) << ends[0].err;
    for (const std::string& part : parts) EXPECT_TRUE(contains(said.front(), part));
    expect_no_process_left();
  }
  void expect_refused(const Outcome& outcome, const std::vector<std::string>& parts) const {
    expect_one_message(outcome, 2, parts);
    EXPECT_FALSE(fs::exists(run_folder("run")));
  }
  std::vector<std::string> rank_words(const std::string& program, const Overrides& overrides) const {
    std::vector<std::string> words{program};
    const std::vector<std::string> more = train_words("run", overrides);
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  // The same, started in a folder of this one.
  static std::vector<std::string> inside(const std::string& folder, const std::vector<std::string>& words) {
    std::vector<std::string> all{"env", "--chdir=" + folder};
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }
  double began_ = 0;
};

TEST_F(RunBadLaunchHeavy, RanksWithOtherConfigs) {
  const Outcome outcome =
      run_apart({rank_words(T6_PROGRAM, {"train.steps=20"}), rank_words(T6_PROGRAM, {"train.steps=30"})});
  expect_refused(outcome,
                 {fmt::format("rank 1 on {}", host()), "another config than rank 0", "steps: 30", "steps: 20"});
}

// A mistake of one rank alone: the other waits for it, and says it.
TEST_F(RunBadLaunchHeavy, ARankWithAMistakeOfItsOwn) {
  const std::vector<std::string> good = rank_words(T6_PROGRAM, {});
  expect_refused(run_apart({good, rank_words(T6_PROGRAM, {"train.stepz=20"})}),
                 {fmt::format("rank 1 on {}", host()), "train.stepz"});
  expect_refused(run_apart({rank_words(T6_PROGRAM, {"train.stepz=20"}), good}), {"train.stepz"});
}

// A program that differs from the other in the commit it says it was built from.
TEST_F(RunBadLaunchHeavy, RanksWithOtherBuilds) {
  std::istringstream version(program({"--version"}).out);
  std::string commit;
  for (std::string word; version >> word;) {
    if (word.starts_with("(")) commit.clear();
    commit = word;
    if (word.find_first_not_of("0123456789abcdef+-dirty()") == std::string::npos && word.size() >= 8) break;
  }
  commit.erase(std::remove_if(commit.begin(), commit.end(), [](char c) { return c == '(' || c == ')'; }), commit.end());
  std::string bytes = read_file(T6_PROGRAM);
  std::string other = commit;
  std::rotate(other.begin(), other.begin() + 1, other.begin() + 7);
  size_t changed = 0;
  for (size_t at = bytes.find(commit); at != std::string::npos;
       at = bytes.find(commit, at + commit.size()), ++changed) {
    bytes.replace(at, commit.size(), other);
  }
  ASSERT_GT(changed, 0u) << "commit '" << commit << "'";
  write_file(folder() / "other_t6", bytes);
  fs::permissions(folder() / "other_t6", fs::perms::owner_all);
  const Outcome outcome = run_apart({rank_words(T6_PROGRAM, {}), rank_words((folder() / "other_t6").string(), {})});
  expect_refused(outcome, {fmt::format("rank 1 on {}", host()), "another build of t6 than rank 0"});
}

// MPI tells the ranks where to meet, at a port that the system chose: what others listen at is in nobody's way. (Ranks
// that meet at a port of the user's choice have GPUs: multi_gpu_test.cpp.)
TEST_F(RunBadLaunchHeavy, UnderMpiNoPortCanBeInUse) {
  const dist::Socket taken = dist::listen_at({"127.0.0.1", 0});
  const std::vector<std::string> words = rank_words(T6_PROGRAM, {"train.steps=2", "schedule.warmup_steps=1"});
  std::vector<std::string> told{"env", "MASTER_ADDR=127.0.0.1", fmt::format("MASTER_PORT={}", taken.port())};
  told.insert(told.end(), words.begin(), words.end());
  const Outcome outcome = run_apart({told, told});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

// Ranks on CPUs that variables alone started could not talk.
TEST_F(RunBadLaunchHeavy, RanksOnCpusWithoutMpi) {
  const std::vector<std::string> rank = rank_words(T6_PROGRAM, {"run.device=cpu"});
  std::vector<std::string> launch{"launch", "--nproc", "2", "--by", "variables", "--"};
  launch.insert(launch.end(), rank.begin() + 1, rank.end());
  const Outcome launched = finish(start_program(launch));
  EXPECT_EQ(launched.code, 2) << launched.err;
  EXPECT_EQ(messages(launched.err).size(), 1u) << launched.err;
  EXPECT_TRUE(contains(launched.err, "2 ranks on CPUs talk by MPI"));

  // The same without the launcher, which tells no rank's end.
  began_ = seconds_now();
  std::vector<std::string> words{"-c", "RANK=0 \"$@\" & zero=$!; RANK=1 \"$@\"; one=$?; wait $zero && exit $one", "sh"};
  const std::vector<std::string> each = recorded(folder(), rank);
  words.insert(words.end(), each.begin(), each.end());
  const std::string port = std::to_string(dist::listen_at({"127.0.0.1", 0}).port());
  const pid_t both = test::start_program("/bin/sh", words, folder(),
                                         {{"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", port}});
  expect_refused(finish(both), {"2 ranks on CPUs talk by MPI"});
}

TEST_F(RunBadLaunchHeavy, AWorldThatDoesNotDivideTheBatch) {
  // An mpirun on the PATH that records the ranks which `t6 launch` starts: "-n 2" and the words of a rank.
  fs::create_directory(folder() / "bin");
  std::string script = "#!/bin/sh\nn=$2; shift 2\nexec " + mpirun() + " -n $n";
  for (const std::string& word : recorded(folder(), {})) script += " '" + word + "'";
  write_file(folder() / "bin" / "mpirun", script + " \"$@\"\n");
  fs::permissions(folder() / "bin" / "mpirun", fs::perms::owner_all);
  began_ = seconds_now();
  std::vector<std::string> words{"launch", "--nproc", "2", "--"};
  for (const std::string& word : train_words("run", {"train.global_batch=11"})) words.push_back(word);
  const std::string path = (folder() / "bin").string() + ":" + std::getenv("PATH");
  expect_refused(finish(start_program(words, {{"PATH", path}})),
                 {"train.global_batch: expected a multiple of train.micro_batch x ranks"});
}

// Equal configs whose globs find other files on another host, here in another folder.
TEST_F(RunBadLaunchHeavy, RanksWithOtherData) {
  for (const auto& [file, what] : std::map<std::string, std::string>{{"train_000002.bin", "training tokens"},
                                                                     {"val_000000.bin", "validation tokens"}}) {
    SCOPED_TRACE(file);
    const fs::path node = folder() / ("node_" + file);
    fs::create_directory(node);
    for (const char* name : {"config.yaml", "train_000001.bin", "train_000002.bin", "val_000000.bin"}) {
      fs::copy_file(folder() / name, node / name);
    }
    // As many other tokens.
    const auto tokens = static_cast<size_t>((fs::file_size(node / file) - 1024) / 2);
    write_file(node / file, data::testing::bin16(learnable_ids(tokens, kVocabulary, 9)));
    const std::vector<std::string> words = rank_words(T6_PROGRAM, {});
    expect_one_message(run_apart({words, inside(node.filename(), words)}), 3,
                       {"rank 1 has other " + what, "fingerprint"});
    EXPECT_FALSE(fs::exists(run_folder("run") / "metrics.jsonl"));
  }
}

// Ranks of t6 eval: other options, another checkpoint, other shards.
TEST_F(RunBadLaunchHeavy, RanksOfAnEvaluationThatDiffer) {
  for (const char* run : {"one", "two"}) {
    ASSERT_EQ(train(run, {"train.steps=10", fmt::format("run.seed={}", run == std::string("one") ? 1 : 2)}).code, 0);
  }
  const auto eval = [](const std::string& run, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{T6_PROGRAM, "eval", run};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  expect_one_message(run_apart({eval("one", {"--windows", "3"}), eval("one", {"--windows", "9"})}), 2,
                     {"another command than rank 0", "--windows 9", "--windows 3"});
  expect_one_message(run_apart({eval("one", {"--tasks", "piqa,boolq", "--data", "."}),
                                eval("one", {"--tasks", "piqa", "--data", "."})}),
                     2, {"another command than rank 0", "--tasks piqa\"", "--tasks piqa boolq"});

  const fs::path node = folder() / "node";
  fs::create_directory(node);
  fs::copy(folder() / "two", node / "one", fs::copy_options::recursive);
  fs::copy_file(folder() / "val_000000.bin", node / "val_000000.bin");
  expect_one_message(run_apart({eval("one"), inside("node", eval("one"))}), 4,
                     {"rank 1 has other weights than rank 0", "name one by its step"});
  fs::remove_all(node / "one");
  fs::copy(folder() / "one", node / "one", fs::copy_options::recursive);
  const Outcome same = run_apart({eval("one"), inside("node", eval("one"))});
  EXPECT_EQ(same.code, 0) << same.err;
  write_file(node / "val_000000.bin", data::testing::bin16(learnable_ids(600, kVocabulary, 9)));
  expect_one_message(run_apart({eval("one"), inside("node", eval("one"))}), 3,
                     {"rank 1 has other validation tokens than rank 0"});
}

}  // namespace
}  // namespace t6::test
