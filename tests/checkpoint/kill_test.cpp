// R2, R4: the process ends at every durable call of a save; what is found afterwards is the old or the new checkpoint.
#include <sys/wait.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_support.h"

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
  }
};

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
