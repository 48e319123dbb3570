// Whole training runs of a tiny model as child processes: shards, config, starting, killing, comparing.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "data/shard_files.h"
#include "support/program_run.h"

namespace t6::test {

namespace fs = std::filesystem;

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

using Overrides = std::vector<std::string>;

// The ids of a text that a small model can learn: words of four ids, the next word drawn from two.
std::vector<uint32_t> learnable_ids(size_t count, uint32_t vocabulary, uint32_t salt);
// Of the ids as they are, in nats a token.
double unigram_entropy(const std::vector<uint32_t>& ids);

void sleep_for(double seconds);

// Whether this child has ended; it stays to be waited for. std::system_error when it is no child.
bool has_ended(pid_t child);

class RunTest : public ::testing::Test {
 protected:
  static constexpr int64_t kSteps = 60, kInterval = 5;
  static constexpr uint32_t kVocabulary = 64;

  // Two training shards, one to validate on, config.yaml: one layer of width 32, 60 steps, a checkpoint every 5.
  RunTest();

  const fs::path& folder() const { return folder_.path(); }
  fs::path run_folder(const std::string& run) const { return folder() / run; }
  fs::path checkpoints(const std::string& run) const { return folder() / run / "checkpoints"; }

  // Starts the program (with `driver` the one with faults) on config.yaml with run.dir set to `run`.
  pid_t start(const std::string& run, const Overrides& overrides = {}, const Environment& environment = {},
              bool driver = false);
  // Starts the program with exactly these arguments.
  pid_t start_program(const std::vector<std::string>& arguments, const Environment& environment = {},
                      bool driver = false);
  Outcome finish(pid_t child);
  Outcome train(const std::string& run, const Overrides& overrides = {}) { return finish(start(run, overrides)); }
  Outcome drive(const std::string& run, const Environment& environment, const Overrides& overrides = {}) {
    return finish(start(run, overrides, environment, true));
  }
  Outcome program(const std::vector<std::string>& arguments) { return finish(start_program(arguments)); }

  // Step of the newest checkpoint, -1 for none.
  int64_t newest_step(const std::string& run) const;
  // Step of the last line of metrics.jsonl, -1 for none.
  int64_t last_logged(const std::string& run) const;
  std::string metrics(const std::string& run) const;
  // Every checkpoint that is listed is complete and its bytes verify.
  void expect_checkpoints_intact(const std::string& run) const;
  // What is not that of `reference`, byte for byte, of weights, optimizer state, position and metrics.jsonl; empty when
  // nothing is.
  std::string difference(const std::string& run, const std::string& reference, int64_t step = kSteps) const;
  void expect_equal_runs(const std::string& run, const std::string& reference, int64_t step = kSteps) const;
  // Every file below the run folder with its content, but for train.log and run.lock.
  std::map<std::string, std::string> snapshot(const std::string& run) const;

  // Changes scalars or tensors of the newest checkpoint, which stays a valid one.
  using Rewrite = std::function<void(checkpoint::State& state, std::map<std::string, Tensor>& tensors)>;
  void rewrite_newest(const std::string& run, const Rewrite& rewrite,
                      const std::function<void(nlohmann::json& facts)>& rewrite_facts = {}) const;

  fs::path payload(const std::string& run, int64_t step) const;
  fs::path manifest(const std::string& run, int64_t step) const {
    return payload(run, step).parent_path() / "manifest.json";
  }

 private:
  data::testing::TempFolder folder_;
  double started_ = 0;
};

// Whole runs on several ranks of this host, with a global batch of 12 in micro-batches of 1. Skipped without MPI.
class RanksTest : public RunTest {
 protected:
  void SetUp() override;

  // train --config config.yaml on that many ranks, as `t6 launch` starts them.
  pid_t start_ranks(int world, const std::string& run, const Overrides& overrides = {});
  Outcome train_on(int world, const std::string& run, const Overrides& overrides = {}) {
    return finish(start_ranks(world, run, overrides));
  }
  // The same by mpirun alone, every rank the program with faults.
  pid_t start_drivers(int world, const std::string& run, const Environment& environment,
                      const Overrides& overrides = {});
  Outcome drive_on(int world, const std::string& run, const Environment& environment, const Overrides& overrides = {}) {
    return finish(start_drivers(world, run, environment, overrides));
  }
  // What that rank recorded by T6_RECORD_CALLS=PATH, a line each: "CALL PATH".
  static std::vector<std::string> recorded_calls(const fs::path& path, int rank);
  // By mpirun, each rank by its own words: a program and its arguments.
  pid_t start_apart(const std::vector<std::vector<std::string>>& ranks, const Environment& environment = {});
  static std::vector<std::string> train_words(const std::string& run, const Overrides& overrides);

  // Processes that work in this test's folder.
  std::vector<pid_t> processes() const;
  // The process that is this rank; 0: there is none.
  pid_t process_of(int rank) const;
  void expect_no_process_left() const;
  // Waits until the run of `launcher` has logged `step`; false when it never does.
  bool wait_for_step(pid_t launcher, const std::string& run, int64_t step) const;

  const std::string& host() const { return host_; }
  // Lines of the standard error that are messages of the program, not of the launcher.
  static std::vector<std::string> messages(const std::string& text);
  // The lines of training of metrics.jsonl: those of evaluations depend on where parts of a run ended.
  std::string training_lines(const std::string& run) const;

 private:
  std::string host_;
};

void flip_byte(const fs::path& path, uint64_t offset);

}  // namespace t6::test
