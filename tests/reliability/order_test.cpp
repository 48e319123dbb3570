// R24: a power cut leaves the previous checkpoint usable. The disk calls of a whole run, in the order they were made.
#include <algorithm>
#include <map>
#include <sstream>

#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;

struct Call {
  std::string what;
  fs::path path;
};

struct Judgement {
  int saves = 0, files = 0;
  std::string faults;  // empty: in order
};

// For every rename of a finished temporary folder: each file in it was fsynced after its last write, the manifest made
// after all others were, then the folder fsynced, then renamed, then its parent fsynced before anything older goes; and
// the loss log was durable when the save began, with the lines of its step; later ones are cut off on a resume.
Judgement judge(const std::vector<Call>& calls) {
  Judgement judgement;
  const auto last_before = [&](size_t end, const std::string& what, const fs::path& path) {
    for (size_t i = end; i-- > 0;) {
      if (calls[i].what == what && calls[i].path == path) return static_cast<ptrdiff_t>(i);
    }
    return ptrdiff_t{-1};
  };
  for (size_t rename = 0; rename < calls.size(); ++rename) {
    const fs::path& folder = calls[rename].path;
    if (calls[rename].what != "rename" || !folder.filename().string().starts_with(".tmp-step-")) continue;
    ++judgement.saves;
    const auto complain = [&](const std::string& what) {
      judgement.faults += folder.filename().string() + ": " + what + "; ";
    };
    const ptrdiff_t made = last_before(rename, "make_directory", folder);
    std::map<fs::path, ptrdiff_t> last_write;
    for (size_t i = static_cast<size_t>(std::max<ptrdiff_t>(made, 0)); i < rename; ++i) {
      const bool writes = calls[i].what == "write" || calls[i].what == "truncate" || calls[i].what == "create";
      if (writes && calls[i].path.parent_path() == folder) last_write[calls[i].path] = static_cast<ptrdiff_t>(i);
    }
    const fs::path manifest = folder / "manifest.json";
    if (!last_write.contains(manifest) || last_write.size() < 2) complain("no manifest or no payload");
    const ptrdiff_t manifest_made = last_before(rename, "create", manifest);
    const ptrdiff_t manifest_synced = last_before(rename, "fsync", manifest);
    for (const auto& [path, written] : last_write) {
      const ptrdiff_t synced = last_before(rename, "fsync", path);
      ++judgement.files;
      if (synced < written) complain(path.filename().string() + " is renamed before its fsync");
      if (path != manifest && synced > manifest_made) complain(path.filename().string() + " is synced too late");
    }
    if (last_before(rename, "fsync", folder) < manifest_synced) complain("the folder is renamed before its fsync");
    const fs::path log = folder.parent_path().parent_path() / "metrics.jsonl";
    const auto began = static_cast<size_t>(std::max<ptrdiff_t>(made, 0));
    if (last_before(began, "fsync", log) < last_before(began, "write", log)) complain("the loss log is not durable");
    bool parent_synced = false;
    for (size_t i = rename + 1; i < calls.size() && !parent_synced; ++i) {
      if (calls[i].what == "fsync") parent_synced = calls[i].path == folder.parent_path();
      const bool removes = calls[i].what == "rename" || calls[i].what == "unlink";
      if (removes && calls[i].path.string().find("checkpoints/") != std::string::npos) break;
    }
    if (!parent_synced) complain("the parent is not synced after the rename");
  }
  return judgement;
}

class RunOrder : public RunTest {
 protected:
  std::vector<Call> record(const std::string& run, Environment environment = {}, bool async = false) {
    environment["T6_RECORD_CALLS"] = (folder() / (run + ".calls")).string();
    const Outcome outcome = drive(
        run, environment, {"train.steps=30", "checkpoint.keep_last=2", fmt::format("checkpoint.async={}", async)});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    std::vector<Call> calls;
    std::istringstream lines(read_file(folder() / (run + ".calls")));
    std::string what, path;
    while (lines >> what && std::getline(lines >> std::ws, path)) calls.push_back({what, path});
    return calls;
  }
  void expect_order(const std::vector<Call>& calls, const char* how);
};

void RunOrder::expect_order(const std::vector<Call>& calls, const char* how) {
  const Judgement judgement = judge(calls);
  EXPECT_EQ(judgement.faults, "");
  EXPECT_EQ(judgement.saves, 6);
  EXPECT_GE(judgement.files, 12);
  // Controls: without any one of the syncs that order them, the judgement is another.
  int controls = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string path = calls[i].path.string();
    const bool within = path.find(".tmp-step-00000020/") != std::string::npos || path.ends_with(".tmp-step-00000020");
    if (calls[i].what != "fsync" || !within) continue;
    std::vector<Call> broken = calls;
    broken.erase(broken.begin() + static_cast<ptrdiff_t>(i));
    EXPECT_NE(judge(broken).faults, "") << "without the fsync of " << path;
    ++controls;
  }
  EXPECT_EQ(controls, 3);
  measured("R24", "{} saves of a run {}: {} files and their folders fsynced before the rename, the parent after it",
           judgement.saves, how, judgement.files);
}

TEST_F(RunOrder, WhatACheckpointNeedsIsDurableBeforeItsName) {
  expect_order(record("waiting"), "that waits for them");
}

// Lines of later steps are written meanwhile.
TEST_F(RunOrder, AlsoBesideTheTraining) {
  expect_order(record("beside", {}, /*async=*/true), "beside the training");
}

// A program that forgets a sync is found out.
TEST_F(RunOrder, ControlAForgottenSyncIsFound) {
  for (const char* part : {"rank-00000.h5", "manifest.json", ".tmp-step-00000015", "/checkpoints", "metrics.jsonl"}) {
    const std::string run = "run" + std::to_string(std::hash<std::string>{}(part));
    EXPECT_NE(judge(record(run, {{"T6_SWALLOW_SYNC", part}})).faults, "") << part;
  }
}

}  // namespace
}  // namespace t6::test
