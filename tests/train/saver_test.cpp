// A save beside the training: it begins while its caller goes on, and holds what was there when it began.
#include "train/saver.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "checkpoint/checkpoint_support.h"
#include "checkpoint/commit.h"
#include "checkpoint/ranks_support.h"

namespace t6::train {
namespace {

using checkpoint::Model;

// Holds every thread that would write a payload until open() is called, or 20 s are over.
class Gate {
 public:
  Gate() {
    io::set_fault_hook([this](io::DiskCall call, const std::filesystem::path& path, size_t&) {
      if (call == io::DiskCall::write && path.extension() == ".h5") wait();
      return 0;
    });
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  // After every thread that writes has ended.
  ~Gate() { io::set_fault_hook({}); }

  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  // True once a thread waits here.
  bool reached() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kLimit, [this] { return waiting_; });
  }

 private:
  static constexpr std::chrono::seconds kLimit{20};
  void wait() {
    std::unique_lock lock(mutex_);
    waiting_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, kLimit, [this] { return open_; });
    open_ = true;  // where nobody opens it, the next call does not wait again
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false, waiting_ = false;
};

class SaverAsync : public checkpoint::ScratchTest {
 protected:
  void SetUp() override {
    ScratchTest::SetUp();
    checkpoint::open_folder(folder_);
  }
  void expect_saved(int64_t step, const Model& expected) const {
    Model loaded(99);
    const std::optional<checkpoint::Loaded> found = checkpoint::load(folder_, loaded.state());
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, step);
    EXPECT_TRUE(loaded.equals(expected));
  }
};

TEST_F(SaverAsync, StartReturnsBeforeTheFileIsWrittenAndKeepsWhatWasThere) {
  Model model(1);
  const Model before(1);
  Gate gate;
  Saver saver(folder_, {}, {}, /*asynchronous=*/true);
  EXPECT_EQ(saver.status(), Saver::Status::idle);
  saver.start(7, model.state());
  EXPECT_EQ(saver.step(), 7);
  ASSERT_TRUE(gate.reached());
  EXPECT_EQ(saver.status(), Saver::Status::writing);
  EXPECT_TRUE(checkpoint::list(folder_).empty());
  for (const Tensor& tensor : model.tensors) tensor.fill(3);
  gate.open();
  const checkpoint::Saved saved = saver.complete();
  EXPECT_EQ(saver.status(), Saver::Status::idle);
  EXPECT_FALSE(saver.step());
  EXPECT_EQ(saved.path, folder_ / checkpoint::step_name(7));
  expect_saved(7, before);
}

// The training hears of it by status(), and completes without waiting.
TEST_F(SaverAsync, StatusSaysWhenTheFileIsWritten) {
  const Model model(2);
  Saver saver(folder_, {}, {}, /*asynchronous=*/true);
  saver.start(1, model.state());
  for (int i = 0; i < 60'000 && saver.status() != Saver::Status::written; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(saver.status(), Saver::Status::written);
  EXPECT_TRUE(checkpoint::list(folder_).empty()) << "it has its name before all ranks are asked";
  saver.complete();
  expect_saved(1, model);
}

TEST_F(SaverAsync, AFailureIsSaidByCompleteAndTheNextSaveWorks) {
  const Model model(3);
  Saver saver(folder_, {}, {}, /*asynchronous=*/true);
  io::set_fault_hook([](io::DiskCall call, const std::filesystem::path& path, size_t&) {
    return call == io::DiskCall::write && path.extension() == ".h5" ? ENOSPC : 0;
  });
  saver.start(1, model.state());
  EXPECT_EQ(checkpoint::error_of([&] { saver.complete(); }).code(), ExitCode::io);
  EXPECT_FALSE(saver.step());
  io::set_fault_hook({});
  saver.start(2, model.state());
  saver.complete();
  expect_saved(2, model);
}

// Where one rank has no memory for its copy, or gets no thread, all hear of it from complete(), and the next save
// works.
TEST_F(SaverAsync, ARankThatCannotBeginFailsTheSaveOfAll) {
  const Model model(3);
  const auto no_memory = []() -> Tensor { throw std::bad_alloc(); };
  const auto no_thread = []() -> Tensor { throw std::system_error(EAGAIN, std::generic_category()); };
  for (const auto& [reason, get] : std::vector<std::pair<std::string, std::function<Tensor()>>>{
           {"out of memory", no_memory}, {std::strerror(EAGAIN), no_thread}}) {
    const auto error =
        checkpoint::common_error(checkpoint::run_ranks(2, [&, get = get](const checkpoint::Peers& peers) {
          Saver saver(folder_, {}, peers, /*asynchronous=*/true);
          checkpoint::State state = checkpoint::part_of(model, peers.rank, 2, 17);
          if (peers.rank == 1) state.tensors.back().get = get;
          saver.start(1, state);
          EXPECT_EQ(saver.step(), 1);
          try {
            saver.complete();
          } catch (const Error&) {
            EXPECT_FALSE(saver.step());
            saver.start(2, checkpoint::part_of(model, peers.rank, 2, 17));
            saver.complete();
            throw;
          }
        }));
    ASSERT_TRUE(error) << reason;
    EXPECT_EQ(error->code(), ExitCode::io);
    EXPECT_TRUE(checkpoint::contains(error->what(), "the checkpoint of step 1 could not be saved: rank 1: " + reason))
        << error->what();
    expect_saved(2, model);
  }
}

// Threads that nobody gives a stack of a size: none of them begins, as where the system has no more of them.
class NoThreads {
 public:
  NoThreads() {
    pthread_attr_t huge;
    EXPECT_EQ(::pthread_getattr_default_np(&before_), 0);
    EXPECT_EQ(::pthread_getattr_default_np(&huge), 0);
    EXPECT_EQ(::pthread_attr_setstacksize(&huge, size_t{1} << 62), 0);
    EXPECT_EQ(::pthread_setattr_default_np(&huge), 0);
    ::pthread_attr_destroy(&huge);
  }
  NoThreads(const NoThreads&) = delete;
  NoThreads& operator=(const NoThreads&) = delete;
  ~NoThreads() {
    EXPECT_EQ(::pthread_setattr_default_np(&before_), 0);
    ::pthread_attr_destroy(&before_);
  }

 private:
  pthread_attr_t before_;
};

TEST_F(SaverAsync, AThreadThatDoesNotBeginFailsThatSaveAlone) {
  const Model model(3);
  Saver saver(folder_, {}, {}, /*asynchronous=*/true);
  {
    const NoThreads none;
    ASSERT_THROW(std::thread([] {}).join(), std::system_error) << "the test itself";
    saver.start(1, model.state());
  }
  EXPECT_EQ(saver.status(), Saver::Status::written);
  const Error error = checkpoint::error_of([&] { saver.complete(); });
  EXPECT_EQ(error.code(), ExitCode::io);
  EXPECT_TRUE(checkpoint::contains(error.what(), std::strerror(EAGAIN))) << error.what();
  EXPECT_TRUE(checkpoint::list(folder_).empty());
  saver.start(2, model.state());
  saver.complete();
  expect_saved(2, model);
}

// A run that ends by an error waits for the thread; what it wrote gets no name.
TEST_F(SaverAsync, DestructionWaitsAndLeavesNoCheckpoint) {
  const Model model(4);
  Gate gate;
  std::thread opens;
  {
    Saver saver(folder_, {}, {}, /*asynchronous=*/true);
    saver.start(5, model.state());
    ASSERT_TRUE(gate.reached());
    opens = std::thread([&] { gate.open(); });
  }
  opens.join();
  EXPECT_TRUE(checkpoint::list(folder_).empty());
}

TEST_F(SaverAsync, WithoutItStartReturnsWhenTheFileIsWritten) {
  const Model model(5);
  Saver saver(folder_, {}, {}, /*asynchronous=*/false);
  saver.start(1, model.state());
  EXPECT_EQ(saver.status(), Saver::Status::written);
  saver.complete();
  expect_saved(1, model);
}

// R23: a thread that reads the tensors themselves, as a saver without a copy would, saves a mixture that does not even
// fit its hashes: the first test would see it.
TEST_F(SaverAsync, ControlWithoutACopyWhatWasThereIsLost) {
  Model model(1);
  const Model before(1);
  Gate gate;
  const checkpoint::State state = model.state();
  checkpoint::begin(folder_, 7, state);
  std::string report;
  std::thread thread([&] { report = checkpoint::write_part(folder_, 7, state); });
  EXPECT_TRUE(gate.reached());
  for (const Tensor& tensor : model.tensors) tensor.fill(3);
  gate.open();
  thread.join();
  checkpoint::complete(folder_, 7, report);
  Model loaded(99);
  bool kept = false;
  try {
    kept = checkpoint::load(folder_, loaded.state()) && loaded.equals(before);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
  }
  EXPECT_FALSE(kept);
}

}  // namespace
}  // namespace t6::train
