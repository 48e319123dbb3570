#include "run_support.h"

#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <thread>

#include "base/rng.h"
#include "dist/mpi.h"
#include "dist/ranks_run.h"

namespace t6::test {

using data::testing::read_file;
using data::testing::write_file;

namespace {

constexpr const char* kConfig = R"(
model:
  attention: tpa
  layers: 1
  width: 32
  heads: 2
  head_width: 8
  vocab_size: 64
  context: 32
  tpa: {rank_q: 2, rank_k: 1, rank_v: 1}
data:
  train: [train_*.bin]
  validation: [val_*.bin]
train:
  steps: 60
  global_batch: 4
  micro_batch: 2
optimizer: {lr: 1.0e-2, min_lr: 1.0e-3}
schedule: {kind: cosine, warmup_steps: 5}
evaluation: {every: 15, windows: 8}
checkpoint: {every: 5, keep_last: 3}
logging: {every: 20}
)";

}  // namespace

std::vector<uint32_t> learnable_ids(size_t count, uint32_t vocabulary, uint32_t salt) {
  constexpr uint32_t kWord = 4;
  const uint32_t words = vocabulary / kWord;
  const Philox random(salt, RngPurpose::test);
  std::vector<uint32_t> ids;
  uint32_t word = 0;
  for (uint64_t i = 0; ids.size() < count; ++i) {
    for (uint32_t k = 0; k < kWord; ++k) ids.push_back(word * kWord + k);
    word = (word * 5 + 1 + static_cast<uint32_t>(random.below(i, 2))) % words;
  }
  ids.resize(count);
  return ids;
}

double unigram_entropy(const std::vector<uint32_t>& ids) {
  std::map<uint32_t, double> counts;
  for (const uint32_t id : ids) counts[id] += 1;
  double entropy = 0;
  for (const auto& [id, n] : counts) {
    const double p = n / static_cast<double>(ids.size());
    entropy -= p * std::log(p);
  }
  return entropy;
}

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

bool has_ended(pid_t child) {
  siginfo_t ended{};
  while (::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT) != 0) {
    if (errno != EINTR) throw std::system_error(errno, std::generic_category(), fmt::format("process {}", child));
  }
  return ended.si_pid != 0;
}

RunTest::RunTest() {
  write_file(folder() / "train_000001.bin", data::testing::bin16(learnable_ids(2000, kVocabulary, 1)));
  write_file(folder() / "train_000002.bin", data::testing::bin16(learnable_ids(1500, kVocabulary, 2)));
  write_file(folder() / "val_000000.bin", data::testing::bin16(learnable_ids(600, kVocabulary, 3)));
  write_file(folder() / "config.yaml", kConfig);
}

pid_t RunTest::start(const std::string& run, const Overrides& overrides, const Environment& environment, bool driver) {
  std::vector<std::string> arguments{"train", "--config", "config.yaml", "run.dir=" + run};
  // Faults are counted by disk calls, whose order a thread that saves would change.
  if (driver) arguments.emplace_back("checkpoint.async=false");
  arguments.insert(arguments.end(), overrides.begin(), overrides.end());
  return start_program(arguments, environment, driver);
}

pid_t RunTest::start_program(const std::vector<std::string>& arguments, const Environment& environment, bool driver) {
  started_ = seconds_now();
  return test::start_program(driver ? T6_DRIVER : T6_PROGRAM, arguments, folder(), environment);
}

Outcome RunTest::finish(pid_t child) {
  return finish_program(child, folder(), started_);
}

int64_t RunTest::newest_step(const std::string& run) const {
  const std::vector<checkpoint::Entry> entries = checkpoint::list(checkpoints(run));
  return entries.empty() ? -1 : entries.back().step;
}

std::string RunTest::metrics(const std::string& run) const {
  return read_file(run_folder(run) / "metrics.jsonl");
}

int64_t RunTest::last_logged(const std::string& run) const {
  std::istringstream lines(metrics(run));
  int64_t step = -1;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("step")) step = json["step"].get<int64_t>();  // else: torn by a kill
  }
  return step;
}

void RunTest::expect_checkpoints_intact(const std::string& run) const {
  const std::vector<checkpoint::Entry> entries = checkpoint::list(checkpoints(run));
  for (const checkpoint::Entry& entry : entries) EXPECT_EQ(entry.damage, "") << entry.path;
  if (entries.empty()) return;
  for (const checkpoint::Verified& one : checkpoint::verify(checkpoints(run))) EXPECT_EQ(one.damage, "") << one.path;
}

void RunTest::rewrite_newest(const std::string& run, const Rewrite& rewrite,
                             const std::function<void(nlohmann::json& facts)>& rewrite_facts) const {
  const checkpoint::Inspected about = checkpoint::inspect(checkpoints(run));
  checkpoint::State state;
  std::map<std::string, Tensor> tensors;
  state.scalars = about.scalars;
  for (const checkpoint::TensorFacts& facts : about.tensors) {
    const Tensor tensor = Tensor::zeros(facts.shape, facts.dtype);
    state.tensors.push_back(checkpoint::tensor_ref(facts.name, tensor));
    tensors.emplace(facts.name, tensor);
  }
  checkpoint::load_one(about.path, state);
  rewrite(state, tensors);
  nlohmann::json facts = about.facts;
  if (rewrite_facts) rewrite_facts(facts);
  checkpoint::save(checkpoints(run), about.step, state, {.retention = {.keep_last = 100}, .facts = facts});
}

fs::path RunTest::payload(const std::string& run, int64_t step) const {
  return checkpoints(run) / fmt::format("step-{:08}", step) / "rank-00000.h5";
}

std::string RunTest::difference(const std::string& run, const std::string& reference, int64_t step) const {
  const auto scalars = [&](const std::string& name) {
    const auto json = nlohmann::json::parse(read_file(manifest(name, step)), nullptr, false);
    return json.is_object() ? json.value("scalars", nlohmann::json()) : nlohmann::json();
  };
  const std::string log = metrics(reference), bytes = read_file(payload(reference, step));
  std::string text;
  if (log.empty() || bytes.empty() || !scalars(reference).is_object()) text += "the reference is not whole; ";
  if (metrics(run) != log) text += fmt::format("metrics.jsonl differs:\n{}\nfrom\n{}\n; ", metrics(run), log);
  if (read_file(payload(run, step)) != bytes) {
    text += fmt::format("weights or optimizer state differ at step {}; ", step);
  }
  if (scalars(run) != scalars(reference)) text += "the position differs; ";
  return text;
}

void RunTest::expect_equal_runs(const std::string& run, const std::string& reference, int64_t step) const {
  EXPECT_EQ(difference(run, reference, step), "");
}

std::map<std::string, std::string> RunTest::snapshot(const std::string& run) const {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(run_folder(run))) {
    const std::string name = fs::relative(entry.path(), run_folder(run)).string();
    if (name == "train.log" || name == "run.lock") continue;
    files[name] = entry.is_regular_file() ? read_file(entry.path()) : "";
  }
  return files;
}

void RanksTest::SetUp() {
  if (!dist::has_mpi() || mpirun().empty()) GTEST_SKIP() << "no MPI";
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  host_ = name;
}

std::vector<std::string> RanksTest::train_words(const std::string& run, const Overrides& overrides) {
  std::vector<std::string> words{"train",
                                 "--config",
                                 "config.yaml",
                                 "run.dir=" + run,
                                 "run.threads=1",
                                 "train.global_batch=12",
                                 "train.micro_batch=1"};
  words.insert(words.end(), overrides.begin(), overrides.end());
  return words;
}

pid_t RanksTest::start_ranks(int world, const std::string& run, const Overrides& overrides) {
  std::vector<std::string> arguments{"launch", "--nproc", std::to_string(world), "--"};
  const std::vector<std::string> words = train_words(run, overrides);
  arguments.insert(arguments.end(), words.begin(), words.end());
  return start_program(arguments);
}

pid_t RanksTest::start_drivers(int world, const std::string& run, const Environment& environment,
                               const Overrides& overrides) {
  std::vector<std::string> words{T6_DRIVER};
  const std::vector<std::string> more = train_words(run, overrides);
  words.insert(words.end(), more.begin(), more.end());
  return start_apart(std::vector<std::vector<std::string>>(static_cast<size_t>(world), words), environment);
}

pid_t RanksTest::start_apart(const std::vector<std::vector<std::string>>& ranks, const Environment& environment) {
  std::vector<std::string> words{"--oversubscribe", "--bind-to", "none", "--allow-run-as-root", "--quiet"};
  for (const std::vector<std::string>& rank : ranks) {
    words.insert(words.end(), {"-n", "1"});
    words.insert(words.end(), rank.begin(), rank.end());
    words.emplace_back(":");
  }
  words.pop_back();
  return test::start_program(mpirun().c_str(), words, folder(), environment);
}

std::vector<std::string> RanksTest::recorded_calls(const fs::path& path, int rank) {
  std::istringstream lines(read_file(fmt::format("{}.{}", path.string(), rank)));
  std::vector<std::string> calls;
  for (std::string line; std::getline(lines, line);) calls.push_back(line);
  return calls;
}

std::vector<pid_t> RanksTest::processes() const {
  std::vector<pid_t> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename().string();
    pid_t process = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), process).ptr != name.data() + name.size()) continue;
    if (fs::read_symlink(entry.path() / "cwd", ignored) == folder()) found.push_back(process);
  }
  return found;
}

pid_t RanksTest::process_of(int rank) const {
  const std::string wanted = fmt::format("OMPI_COMM_WORLD_RANK={}", rank);
  for (const pid_t process : processes()) {
    std::ifstream variables(fmt::format("/proc/{}/environ", process));
    for (std::string each; std::getline(variables, each, '\0');) {
      if (each == wanted) return process;
    }
  }
  return 0;
}

void RanksTest::expect_no_process_left() const {
  std::vector<pid_t> left = processes();
  for (const double limit = seconds_now() + 5; !left.empty() && seconds_now() < limit; left = processes()) {
    sleep_for(0.01);
  }
  EXPECT_TRUE(left.empty()) << left.size() << " processes are left";
}

bool RanksTest::wait_for_step(pid_t launcher, const std::string& run, int64_t step) const {
  const double limit = seconds_now() + 120;
  while (last_logged(run) < step) {
    if (has_ended(launcher) || seconds_now() > limit) return false;
    sleep_for(0.01);
  }
  return true;
}

std::vector<std::string> RanksTest::messages(const std::string& text) {
  std::istringstream lines(text);
  std::vector<std::string> found;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("t6: ")) found.push_back(line);
  }
  return found;
}

std::string RanksTest::training_lines(const std::string& run) const {
  std::istringstream lines(metrics(run));
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("\"kind\":\"train\"") != std::string::npos) kept += line + "\n";
  }
  return kept;
}

void flip_byte(const fs::path& path, uint64_t offset) {
  std::string bytes = read_file(path);
  ASSERT_LT(offset, bytes.size());
  bytes[offset] = static_cast<char>(bytes[offset] ^ 0x10);
  write_file(path, bytes);
}

}  // namespace t6::test
