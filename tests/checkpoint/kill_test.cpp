// R2, R4: the process ends at every durable call of a save; what is found afterwards is the old or the new checkpoint.
#include <sys/wait.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/ranks_support.h"
#include "support/promise.h"

namespace t6::checkpoint {
namespace {

constexpr int kKilled = 77;

class CheckpointKill : public ScratchTest {
 protected:
  CheckpointKill() : ScratchTest(Place::memory) {}

  // Saves `step` in a child that ends at call `stop`, in the middle of it when it is a write. True when it was killed,
  // false when the save has fewer calls.
  bool save_and_die(const Model& model, int64_t step, size_t stop, bool torn) {
    const pid_t child = ::fork();
    if (child == 0) {
      size_t count = 0;
      io::set_fault_hook([&](io::DiskCall call, const fs::path&, size_t& bytes) {
        if (count > stop) ::_exit(kKilled);
        if (count++ == stop) {
          if (!torn || call != io::DiskCall::write) ::_exit(kKilled);
          bytes = (bytes + 1) / 2;  // this part arrives, then the end
        }
        return 0;
      });
      try {
        SaveOptions options;
        options.retention = {2, 0};
        save(folder_, step, model.state(step), options);
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_TRUE(WEXITSTATUS(status) == kKilled || WEXITSTATUS(status) == 0) << status;
    return WEXITSTATUS(status) == kKilled;
  }

  // Steps 10 and 20 are there, of `old_model`; `step` is saved of `new_model` and killed at every call.
  void kill_everywhere(int64_t step, bool torn) {
    const Model old_model(1), new_model(10), loaded(50);
    int kills = 0, old_found = 0, new_found = 0;
    for (size_t stop = 0;; ++stop) {
      io::remove_all(folder_);
      save(folder_, 10, old_model.state(10));
      save(folder_, 20, old_model.state(20));
      if (!save_and_die(new_model, step, stop, torn)) break;
      ++kills;
      for (const Entry& entry : list(folder_)) EXPECT_EQ(entry.damage, "") << "call " << stop;
      open_folder(folder_);
      for (const Entry& entry : list(folder_)) EXPECT_EQ(entry.damage, "") << "call " << stop;
      for (const auto& entry : fs::directory_iterator(folder_)) {
        EXPECT_EQ(entry.path().filename().string().rfind("step-", 0), 0u) << entry.path();
      }
      std::optional<Loaded> back = load(folder_, loaded.state());
      ASSERT_TRUE(back) << "call " << stop;
      EXPECT_TRUE(back->warnings.empty());
      const bool is_new = loaded.equals(new_model);
      EXPECT_EQ(back->step, is_new ? step : 20) << "call " << stop;
      EXPECT_TRUE(is_new || loaded.equals(old_model)) << "call " << stop;
      EXPECT_EQ(back->scalars, (is_new ? new_model : old_model).state(back->step).scalars);
      ++(is_new ? new_found : old_found);
      // The same command again.
      save(folder_, step, new_model.state(step));
      back = load(folder_, loaded.state());
      ASSERT_TRUE(back);
      EXPECT_EQ(back->step, step);
      EXPECT_TRUE(loaded.equals(new_model));
    }
    EXPECT_GT(kills, 15);
    EXPECT_GT(old_found, 10);
    EXPECT_GT(new_found, 0);
    test::measured("R2", "{0} of {0} kills at the disk calls of a save{1}: the old checkpoint or the new one, whole",
                   kills,
                   torn         ? ", half of a write done"
                   : step == 20 ? " that replaces a step"
                                : "");
  }
};

// One of three ranks ends at each of its calls; the others learn that it is gone and end, too, without cleaning up.
void kill_a_rank_everywhere(const fs::path& folder, int victim, bool torn) {
  constexpr int kWorld = 3;
  const Model old_model(1), new_model(10);
  int kills = 0, old_found = 0;
  for (size_t stop = 0;; ++stop) {
    io::remove_all(folder);
    save_in_parts(folder, 10, old_model, 2, 100);
    save_in_parts(folder, 20, old_model, kWorld, 100);
    const std::vector<int> statuses = run_processes(kWorld, [&](const Peers& peers) {
      size_t count = 0;
      io::set_fault_hook([&, rank = peers.rank](io::DiskCall call, const fs::path&, size_t& bytes) {
        if (rank != victim) return 0;
        if (count > stop) ::_exit(kKilled);
        if (count++ == stop) {
          if (!torn || call != io::DiskCall::write) ::_exit(kKilled);
          bytes = (bytes + 1) / 2;  // this part arrives, then the end
        }
        return 0;
      });
      SaveOptions options;
      options.retention = {2, 0};
      save(folder, 30, part_of(new_model, peers.rank, kWorld, 100, 30), options, peers);
    });
    if (statuses[static_cast<size_t>(victim)] == 0) {
      EXPECT_EQ(statuses, std::vector<int>(kWorld, 0));
      break;
    }
    ++kills;
    for (int rank = 0; rank < kWorld; ++rank) {
      const int expected = rank == victim ? kKilled : static_cast<int>(ExitCode::peer);
      EXPECT_EQ(statuses[static_cast<size_t>(rank)], expected) << "rank " << rank << " at call " << stop;
    }
    for (const Entry& entry : list(folder)) EXPECT_EQ(entry.damage, "") << "call " << stop;
    open_folder(folder);
    for (const auto& entry : fs::directory_iterator(folder)) {
      EXPECT_EQ(entry.path().filename().string().rfind("step-", 0), 0u) << entry.path();
    }
    const Parts parts(2, old_model, 60);
    int64_t step = 0;
    expect_no_error(run_ranks(2, [&](const Peers& peers) {
      const std::optional<Loaded> back = load(folder, parts.state(peers.rank), {}, peers);
      ASSERT_TRUE(back) << "call " << stop;
      EXPECT_TRUE(back->warnings.empty());
      if (peers.rank == 0) step = back->step;
    }));
    EXPECT_TRUE(step == 20 || (step == 30 && victim == 0)) << step;
    EXPECT_TRUE(parts.are(step == 30 ? new_model : old_model)) << "call " << stop;
    old_found += step == 20;
    save_in_parts(folder, 30, new_model, kWorld, 100);  // the same command again
    const Model loaded(50);
    EXPECT_TRUE(load(folder, loaded.state())->step == 30 && loaded.equals(new_model));
  }
  EXPECT_GT(kills, victim == 0 ? 15 : 5);
  EXPECT_EQ(old_found < kills, victim == 0) << "only rank 0 does anything after the commit";
}

TEST_F(CheckpointKill, OneRankAtEveryCallOfASave) {
  for (const int victim : {0, 1, 2}) kill_a_rank_everywhere(folder_, victim, false);
}
TEST_F(CheckpointKill, OneRankWithinEveryWriteOfASave) {
  for (const int victim : {0, 2}) kill_a_rank_everywhere(folder_, victim, true);
}

TEST_F(CheckpointKill, AtEveryCallOfASave) {
  kill_everywhere(30, false);
}
TEST_F(CheckpointKill, WithinEveryWriteOfASave) {
  kill_everywhere(30, true);
}
TEST_F(CheckpointKill, AtEveryCallWhileAStepIsReplaced) {
  kill_everywhere(20, false);
}

// The opener itself may die while it cleans up.
TEST_F(CheckpointKill, AtEveryCallOfTheCleanUp) {
  const Model old_model(1), new_model(10), loaded(50);
  for (size_t first = 0;; ++first) {
    io::remove_all(folder_);
    save(folder_, 20, old_model.state(20));
    if (!save_and_die(new_model, 20, first, false)) break;
    for (size_t stop = 0; stop < 20; ++stop) {
      const pid_t child = ::fork();
      if (child == 0) {
        size_t count = 0;
        io::set_fault_hook([&](io::DiskCall, const fs::path&, size_t&) {
          if (count++ == stop) ::_exit(kKilled);
          return 0;
        });
        open_folder(folder_);
        ::_exit(0);
      }
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      if (WEXITSTATUS(status) == 0) break;
    }
    ASSERT_TRUE(load(folder_, loaded.state())) << "call " << first;
    EXPECT_TRUE(loaded.equals(old_model) || loaded.equals(new_model));
  }
}

}  // namespace
}  // namespace t6::checkpoint
