// R7, R24: the order of durable calls, and a fault at each of them.
#include <omp.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <functional>
#include <mutex>

#include "checkpoint/checkpoint.h"
#include "checkpoint/ranks_support.h"
#include "support/promise.h"

namespace t6::checkpoint {
namespace {

using io::DiskCall;

struct Call {
  DiskCall what;
  fs::path path;
};

class Fault : public ScratchTest {
 protected:
  Fault() : ScratchTest(Place::memory) {}
  void SetUp() override {
    ScratchTest::SetUp();
    level_ = spdlog::get_level();
    spdlog::set_level(spdlog::level::off);
  }
  void TearDown() override {
    spdlog::set_level(level_);
    ScratchTest::TearDown();
  }
  std::vector<Call> record(const std::function<void()>& f) {
    std::vector<Call> calls;
    std::mutex mutex;  // ranks may be threads
    io::set_fault_hook([&](DiskCall what, const fs::path& path, size_t&) {
      const std::lock_guard lock(mutex);
      calls.push_back({what, path});
      return 0;
    });
    f();
    io::set_fault_hook({});
    return calls;
  }
  spdlog::level::level_enum level_{};
};

// What a power cut may not find in another order, as a list of complaints; empty when right.
std::string order_fault(const std::vector<Call>& calls, const fs::path& dir, int rank = 0) {
  const fs::path temporary = dir / ".tmp-step-00000002";
  const auto find = [&](DiskCall what, const fs::path& path) {
    const auto is = [&](const Call& call) { return call.what == what && call.path == path; };
    return std::find_if(calls.begin(), calls.end(), is) - calls.begin();
  };
  const auto last_write = [&](const fs::path& path) {
    ptrdiff_t last = -1;
    for (size_t i = 0; i < calls.size(); ++i) {
      const bool writes = calls[i].what == DiskCall::write || calls[i].what == DiskCall::truncate;
      if (writes && calls[i].path == path) last = static_cast<ptrdiff_t>(i);
    }
    return last;
  };
  const ptrdiff_t missing = static_cast<ptrdiff_t>(calls.size());
  const fs::path payload = temporary / fmt::format("rank-{:05}.h5", rank), manifest = temporary / "manifest.json";
  const std::vector<std::pair<const char*, ptrdiff_t>> wanted{
      {"last write of the payload", last_write(payload)},
      {"fsync of the payload", find(DiskCall::sync, payload)},
      {"creation of the manifest", find(DiskCall::create, manifest)},
      {"last write of the manifest", last_write(manifest)},
      {"fsync of the manifest", find(DiskCall::sync, manifest)},
      {"fsync of the folder", find(DiskCall::sync_directory, temporary)},
      {"rename", find(DiskCall::rename, temporary)},
  };
  std::string faults;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i].second < 0 || wanted[i].second == missing) faults += fmt::format("no {}; ", wanted[i].first);
    if (i > 0 && wanted[i].second < wanted[i - 1].second) {
      faults += fmt::format("{} before {}; ", wanted[i].first, wanted[i - 1].first);
    }
  }
  // The fsync of the parent comes next: before an older checkpoint is touched.
  const size_t next = static_cast<size_t>(wanted.back().second) + 1;
  if (next >= calls.size() || calls[next].what != DiskCall::sync_directory || calls[next].path != dir) {
    faults += "no fsync of the parent after the rename; ";
  }
  return faults;
}

std::string order_faults(const std::vector<Call>& calls, const fs::path& dir, int world) {
  std::string faults;
  for (int rank = 0; rank < world; ++rank) faults += order_fault(calls, dir, rank);
  return faults;
}

// Controls: the recorded order of a save by `world` ranks broken on purpose in each place must be noticed. How many
// there are.
int controls_that_fail(const std::vector<Call>& calls, const fs::path& dir, int world) {
  int controls = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    std::vector<Call> broken = calls;
    broken.erase(broken.begin() + static_cast<ptrdiff_t>(i));
    const bool is_retention =
        i > 0 && calls[i - 1].what == DiskCall::rename && calls[i - 1].path == dir / "step-00000001";
    // That of the temporary folder's own entry: a power cut may forget the folder as long as it is temporary.
    const bool is_creation = i > 0 && calls[i - 1].what == DiskCall::make_directory;
    const bool orders = !is_retention && !is_creation;
    if ((calls[i].what == DiskCall::sync || calls[i].what == DiskCall::sync_directory) && orders) {
      EXPECT_NE(order_faults(broken, dir, world), "") << "without " << name_of(calls[i].what) << " " << calls[i].path;
      ++controls;
    }
    if (calls[i].what == DiskCall::rename && calls[i].path == dir / ".tmp-step-00000002") {
      for (size_t j = 0; j < i; ++j) {
        if (calls[j].what != DiskCall::sync && calls[j].what != DiskCall::sync_directory) continue;
        std::vector<Call> early = broken;
        early.insert(early.begin() + static_cast<ptrdiff_t>(j), calls[i]);
        EXPECT_NE(order_faults(early, dir, world), "") << "rename before call " << j;
        ++controls;
      }
    }
  }
  return controls;
}

TEST_F(Fault, PayloadManifestFolderRenameParentAreSyncedInThisOrder) {
  const Model model(1);
  save(folder_, 1, model.state());
  SaveOptions options;
  options.retention.keep_last = 1;  // so that something is unlinked, too
  const std::vector<Call> calls = record([&] { save(folder_, 2, model.state(), options); });
  EXPECT_EQ(order_fault(calls, folder_), "");

  EXPECT_EQ(controls_that_fail(calls, folder_, 1), 8);
}

// R24 with several ranks: no file of any rank may be without its fsync when the folder gets its name.
TEST_F(Fault, FilesOfAllRanksAreSyncedBeforeTheRename) {
  const Model model(1);
  save_in_parts(folder_, 1, model, 3, 100);
  SaveOptions options;
  options.retention.keep_last = 1;
  const std::vector<Call> calls = record([&] { save_in_parts(folder_, 2, model, 3, 100, options); });
  EXPECT_EQ(order_faults(calls, folder_, 3), "");
  EXPECT_EQ(controls_that_fail(calls, folder_, 3), 12);
}

TEST_F(Fault, NothingOutsideTheFolderIsTouched) {
  const Model model(1);
  SaveOptions options;
  options.retention.keep_last = 1;
  save(folder_ / "dir", 1, model.state());
  const std::string inside = (folder_ / "dir").string();
  for (const int64_t step : {2, 2, 3}) {
    for (const Call& call : record([&] { save(folder_ / "dir", step, model.state(), options); })) {
      EXPECT_EQ(call.path.string().rfind(inside, 0), 0u) << call.path;
    }
  }
}

// A fault at each call of a save, once (a passing EIO) or from then on (a full disk): the older checkpoint is as it
// was, nothing partial is listed, and the next save works.
void expect_survives(const fs::path& folder, int64_t step, int error, bool sticky, bool short_writes) {
  const Model old_model(1), new_model(10);
  const fs::path dir = folder / fmt::format("{}-{}-{}-{}", step, error, sticky, short_writes);
  const bool replaces = step == 1;
  size_t calls = SIZE_MAX;
  int failed = 0;
  for (size_t stop = 0; stop < calls; ++stop) {
    io::remove_all(dir);
    save(dir, 1, old_model.state(1));
    size_t count = 0;
    io::set_fault_hook([&](DiskCall what, const fs::path&, size_t& bytes) {
      const size_t now = count++;
      const bool full = what == DiskCall::write || what == DiskCall::create || what == DiskCall::make_directory ||
                        what == DiskCall::truncate;
      if (short_writes && what == DiskCall::write && now + 1 == stop) bytes = (bytes + 1) / 2;
      return now == stop || (sticky && now > stop && full) ? error : 0;
    });
    bool saved = true;
    try {
      SaveOptions options;
      options.retention.keep_last = 1;
      save(dir, step, new_model.state(step), options);
    } catch (const Error& caught) {
      saved = false;
      ++failed;
      EXPECT_EQ(caught.code(), ExitCode::io) << caught.what();
      EXPECT_TRUE(contains(caught.what(), std::strerror(error))) << caught.what();
      EXPECT_TRUE(contains(caught.what(), "bytes) are free") || stop == 0) << caught.what();
    }
    io::set_fault_hook({});
    if (count <= stop) calls = stop;  // the save has no further calls

    const Model loaded(50);
    const std::vector<Entry> entries = list(dir);
    ASSERT_FALSE(entries.empty()) << "call " << stop;
    for (const Entry& entry : entries) EXPECT_EQ(entry.damage, "") << "call " << stop;
    const std::optional<Loaded> back = load(dir, loaded.state());
    ASSERT_TRUE(back);
    const bool is_new = replaces ? loaded.equals(new_model) : back->step == step;
    EXPECT_TRUE(is_new || !saved) << "call " << stop;
    EXPECT_TRUE(loaded.equals(is_new ? new_model : old_model)) << "call " << stop;
    if (!saved && !is_new) {
      for (const auto& entry : fs::directory_iterator(dir)) {
        EXPECT_EQ(entry.path().filename(), "step-00000001") << "call " << stop;
      }
    }
    save(dir, step, new_model.state(step));
    EXPECT_TRUE(load(dir, loaded.state()) && loaded.equals(new_model)) << "call " << stop;
  }
  EXPECT_GT(failed, 10);
  test::measured("R7", "{} at {} calls of a save{}",
                 short_writes ? "a short write, then a full disk," : std::strerror(error), failed,
                 replaces ? " that replaces a step" : "");
}

TEST_F(Fault, EioAtAnyCallLeavesTheOlderCheckpoint) {
  expect_survives(folder_, 2, EIO, false, false);
}
TEST_F(Fault, ErofsAtAnyCallLeavesTheOlderCheckpoint) {
  expect_survives(folder_, 2, EROFS, true, false);
}
TEST_F(Fault, EnospcAtAnyCallLeavesTheOlderCheckpoint) {
  expect_survives(folder_, 2, ENOSPC, true, false);
}
TEST_F(Fault, EnospcAfterAShortWriteLeavesTheOlderCheckpoint) {
  expect_survives(folder_, 2, ENOSPC, true, true);
}
TEST_F(Fault, EioWhileReplacingAStepLeavesOneOfTheTwo) {
  expect_survives(folder_, 1, EIO, false, false);
}

// The same on one of three ranks: all end with one Error that names it, or all have saved.
void expect_ranks_survive(const fs::path& folder, int victim, int error, bool sticky, bool short_writes) {
  constexpr int kWorld = 3;
  const Model old_model(1), new_model(10);
  const fs::path dir = folder / fmt::format("{}-{}-{}-{}", victim, error, sticky, short_writes);
  size_t calls = SIZE_MAX;
  int failed = 0;
  for (size_t stop = 0; stop < calls; ++stop) {
    io::remove_all(dir);
    save_in_parts(dir, 1, old_model, 2, 100);
    size_t count = 0;
    io::set_fault_hook([&](DiskCall what, const fs::path&, size_t& bytes) {
      if (this_rank != victim) return 0;  // count belongs to one thread
      const size_t now = count++;
      const bool full = what == DiskCall::write || what == DiskCall::create || what == DiskCall::make_directory ||
                        what == DiskCall::truncate;
      if (short_writes && what == DiskCall::write && now + 1 == stop) bytes = (bytes + 1) / 2;
      return now == stop || (sticky && now > stop && full) ? error : 0;
    });
    SaveOptions options;
    options.retention.keep_last = 1;
    const auto caught = common_error(run_ranks(kWorld, [&](const Peers& peers) {
      save(dir, 2, part_of(new_model, peers.rank, kWorld, 100, 2), options, peers);
    }));
    io::set_fault_hook({});
    if (count <= stop) calls = stop;  // the save has no further calls on this rank
    if (caught) {
      ++failed;
      EXPECT_EQ(caught->code(), ExitCode::io) << caught->what();
      for (const std::string& part : {std::string(std::strerror(error)), fmt::format("rank {}: ", victim),
                                      std::string("bytes) are free; older checkpoints are intact")}) {
        EXPECT_TRUE(contains(caught->what(), part)) << caught->what();
      }
    }
    const std::vector<Entry> entries = list(dir);
    ASSERT_FALSE(entries.empty()) << "call " << stop;
    for (const Entry& entry : entries) EXPECT_EQ(entry.damage, "") << "call " << stop;
    const Parts parts(2, old_model, 60);
    bool is_new = false;
    expect_no_error(run_ranks(2, [&](const Peers& peers) {
      const std::optional<Loaded> back = load(dir, parts.state(peers.rank), {}, peers);
      ASSERT_TRUE(back);
      EXPECT_TRUE(back->warnings.empty());
      if (peers.rank == 0) is_new = back->step == 2;
    }));
    EXPECT_TRUE(parts.are(is_new ? new_model : old_model)) << "call " << stop;
    EXPECT_TRUE(is_new || caught) << "call " << stop;
    if (caught && !is_new) {
      for (const auto& entry : fs::directory_iterator(dir)) {
        EXPECT_EQ(entry.path().filename(), "step-00000001") << "call " << stop;
      }
    }
    save_in_parts(dir, 2, new_model, kWorld, 100);
    const Model loaded(50);
    EXPECT_TRUE(load(dir, loaded.state())->step == 2 && loaded.equals(new_model)) << "call " << stop;
  }
  EXPECT_GT(failed, victim == 0 ? 10 : 5);
}

TEST_F(Fault, EioAtAnyCallOfARankLeavesTheOlderCheckpoint) {
  for (const int victim : {0, 1, 2}) expect_ranks_survive(folder_, victim, EIO, false, false);
}
TEST_F(Fault, EnospcAtAnyCallOfARankLeavesTheOlderCheckpoint) {
  for (const int victim : {0, 1, 2}) expect_ranks_survive(folder_, victim, ENOSPC, true, false);
}
TEST_F(Fault, EnospcAfterAShortWriteOfARankLeavesTheOlderCheckpoint) {
  for (const int victim : {0, 1, 2}) expect_ranks_survive(folder_, victim, ENOSPC, true, true);
}

TEST_F(Fault, NoRoomIsSaidBeforeAnythingIsWritten) {
  State state = Model(1).state();
  for (int i = 0; i < 1000; ++i) {  // 4 PB
    state.tensors.push_back({fmt::format("huge/{}", i), DType::f32, Shape{1 << 20, 1 << 20}, {}, {}});
  }
  const Error error = error_of([&] { save(folder_ / "dir", 1, state); });
  EXPECT_EQ(error.code(), ExitCode::io);
  EXPECT_TRUE(contains(error.what(), "needs 4.4") && contains(error.what(), "free")) << error.what();
  EXPECT_EQ(error_of([&] { require_space(folder_, state); }).code(), ExitCode::io);
  EXPECT_NO_THROW(require_space(folder_, Model(1).state()));
  EXPECT_TRUE(list(folder_ / "dir").empty());
}

// A write that the system itself refuses: a file size limit first cuts a write short, then fails it.
TEST_F(Fault, AFileSizeLimitLeavesTheOlderCheckpoint) {
  const Model model(1, 20'000), loaded(50, 20'000);
  save(folder_, 1, model.state());
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 1'500'000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  const Error error = error_of([&] { save(folder_, 2, model.state()); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(error.code(), ExitCode::io);
  EXPECT_TRUE(contains(error.what(), "File too large")) << error.what();
  EXPECT_EQ(list(folder_).size(), 1u);
  ASSERT_TRUE(load(folder_, loaded.state()));
  EXPECT_TRUE(loaded.equals(model));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

constexpr int kNoMount = 99;

// In a child with mounts of its own: fills a small file system while a save is under way. 0: as promised.
int save_on_a_full_disk(const fs::path& folder) {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=8m") != 0) {
    return kNoMount;
  }
  const Model model(1, 5'000), loaded(50, 5'000);
  save(folder / "dir", 1, model.state());
  State state = model.state();
  state.tensors[3].get = [&] {  // somebody else takes what is left
    try {
      write_bytes(folder / "filler", std::string(size_t{16} << 20, 'x'));
    } catch (const Error&) {
    }
    return model.tensors[3];
  };
  try {
    save(folder / "dir", 2, state);
    return 1;
  } catch (const Error& error) {
    if (error.code() != ExitCode::io || !contains(error.what(), "No space left on device")) return 2;
    if (!contains(error.what(), "it needs")) return 3;
  }
  if (std::distance(fs::directory_iterator(folder / "dir"), fs::directory_iterator()) != 1) return 4;
  if (!load(folder / "dir", loaded.state()) || !loaded.equals(model)) return 5;
  io::remove_all(folder / "filler");
  save(folder / "dir", 2, model.state());
  return load(folder / "dir", loaded.state())->step == 2 ? 0 : 6;
}

TEST_F(Fault, ADiskThatFillsUpLeavesTheOlderCheckpoint) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::omp_set_num_threads(1);  // the other threads did not come along
    int result = 98;
    try {
      result = save_on_a_full_disk(folder_);
    } catch (...) {
    }
    ::_exit(result);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNoMount) GTEST_SKIP() << "no right to mount here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
  test::measured("R7", "a tmpfs filled up amid a save");
}

}  // namespace
}  // namespace t6::checkpoint
