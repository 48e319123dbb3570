#include "dist/mpi.h"

#include "base/error.h"

#if defined(T6_HAVE_MPI)

#include <sys/prctl.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <exception>

#include "dist/checks.h"
#include "dist/mpi_blocks.h"
#include "dist/work_queue.h"
#include "tensor/gpu.h"

#if defined(__SANITIZE_ADDRESS__)
#include <dlfcn.h>
#include <sanitizer/lsan_interface.h>

// What a thread of PMIx, which MPI starts, looks up and keeps.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libpmix.so";
}
extern "C" const char* __lsan_default_options() {
  return "print_suppressions=0";
}
#endif

namespace t6::dist {
namespace {

// What MPI allocates while it starts or ends and never frees is no leak of this program. By the time leaks are looked
// for its plug-ins are unloaded, and a list of suppressions has no name to match.
struct LeaksAreOfMpi {
#if defined(__SANITIZE_ADDRESS__)
  LeaksAreOfMpi() {
    __lsan_disable();
    dlopen("libpmix.so.2", RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);  // stays, so that its name is known
  }
  ~LeaksAreOfMpi() {
    __lsan_enable();
  }
#endif
};

using Clock = std::chrono::steady_clock;

constexpr auto kLastWait = std::chrono::seconds(2);

class Mpi final : public Communicator {
 public:
  Mpi(const Ranks& ranks, Device device) : Communicator(ranks), device_(device) {
    if (device.is_cuda()) stream_ = std::make_unique<gpu::Stream>();
    queue_.push([this] { start(); });
    queue_.wait();
  }

  ~Mpi() override {
    if (std::uncaught_exceptions() > 0) give_up_after(kLastWait);
    try {
      queue_.push([this] { finish(); });
      queue_.wait();
    } catch (const std::exception&) {
      // Said already, or the run ends for another reason. Others learn of it from who started them.
    }
  }

  const char* name() const override { return "mpi"; }

  void all_reduce(const Tensor& x) override {
    require_tensor("all_reduce", x, device_);
    push({MpiKind::all_reduce, 0, x, {}});
  }
  void reduce_scatter(const Tensor& x) override {
    require_tensor("reduce_scatter", x, device_);
    require_slices("reduce_scatter", x, world());
    push({MpiKind::reduce_scatter, 0, x, {}});
  }
  void all_gather(const Tensor& x) override {
    require_tensor("all_gather", x, device_);
    require_slices("all_gather", x, world());
    push({MpiKind::all_gather, 0, x, {}});
  }
  void broadcast(const Tensor& x, int root) override {
    require_tensor("broadcast", x, device_);
    require_rank("broadcast", root, world());
    push({MpiKind::broadcast, root, x, {}});
  }
  void exchange(int peer, const Tensor& send, const Tensor& receive) override {
    require_tensor("exchange", send, device_);
    require_tensor("exchange", receive, device_);
    require_peer("exchange", peer, rank(), world());
    require_equal("exchange", send, receive);
    push({MpiKind::exchange, peer, send, receive});
  }
  void send(int peer, const Tensor& x) override {
    require_tensor("send", x, device_);
    require_peer("send", peer, rank(), world());
    push({MpiKind::send, peer, x, {}});
  }
  void receive(int peer, const Tensor& x) override {
    require_tensor("receive", x, device_);
    require_peer("receive", peer, rank(), world());
    push({MpiKind::receive, peer, x, {}});
  }

  void wait() override {
    queue_.wait();
    held_.clear();
  }

  std::string failure() override { return queue_.failure(); }
  void abort() noexcept override { give_up_after(Clock::duration::zero()); }

 private:
  std::vector<std::string> gather_text(std::string_view text) override {
    std::vector<std::string> texts;
    queue_.push([&] { texts = gather(text); });
    queue_.wait();
    return texts;
  }

  // The last owner of a GPU's tensor lets go of it in the caller's thread, at wait().
  void push(MpiOperation operation) {
    std::shared_ptr<gpu::Event> ready;
    if (device_.is_cuda()) {
      ready = std::make_shared<gpu::Event>();
      ready->record();
      held_.push_back(operation.x);
      held_.push_back(operation.received);
    }
    queue_.push([this, ready, o = std::move(operation)] {
      if (ready != nullptr) stream_->follow(*ready);
      blocks_->run(o);
    });
  }

  // From here on: the thread of MPI.

  void start() {
    prctl(PR_SET_TIMERSLACK, 1000UL);  // short sleeps are short
    [[maybe_unused]] const LeaksAreOfMpi leaks;
    int initialized = 0, provided = 0;
    MPI_Initialized(&initialized);
    T6_CHECK(!initialized, "[mpi] MPI is initialised once a process");
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    barrier("the first barrier");  // what MPI allocates for its first collective call is among the above
    int mpi_rank = 0, mpi_world = 0;
    check_mpi(MPI_Comm_rank(comm_, &mpi_rank), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &mpi_world), "MPI_Comm_size");
    if (mpi_rank == rank() && mpi_world == world()) {
      blocks_ = std::make_unique<MpiBlocks>(comm_, device_, stream_.get(),
                                            [this](const char* what) { require_going_on(what); });
      return;
    }
    give_up_after(kLastWait);
    try {
      finish();
    } catch (const Error&) {
      // what follows says more
    }
    fail(ExitCode::usage,
         "expected MPI to know this process as rank {} of {}, but to MPI it is rank {} of {}; start all ranks "
         "by mpirun, or by srun with MPI's --mpi=pmix",
         rank(), world(), mpi_rank, mpi_world);
  }

  void finish() {
    barrier("the last barrier");
    [[maybe_unused]] const LeaksAreOfMpi leaks;
    MPI_Comm_free(&comm_);
    MPI_Finalize();
  }

  void barrier(const char* what) {
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ibarrier(comm_, &request), what);
    await(request, what);
  }

  void give_up_after(Clock::duration time) noexcept { give_up_at_ = (Clock::now() + time).time_since_epoch().count(); }

  void require_going_on(const char* what) const {
    if (Clock::now().time_since_epoch().count() >= give_up_at_) fail(ExitCode::peer, "[mpi] {} was given up", what);
  }

  void await(MPI_Request& request, const char* what) const {
    const Patience patience;
    for (int done = 0;;) {
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), what);
      if (done) return;
      require_going_on(what);
      patience.pause();
    }
  }

  std::vector<std::string> gather(std::string_view text) {
    constexpr const char* kWhat = "all_gather_text";
    require_going_on(kWhat);
    const auto ranks = static_cast<size_t>(world());
    const auto mine = static_cast<int64_t>(text.size());
    std::vector<int64_t> sizes(ranks);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallgather(&mine, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, comm_, &request), kWhat);
    await(request, kWhat);
    std::vector<int> counts(ranks), begins(ranks);
    int64_t total = 0;
    for (size_t r = 0; r < ranks; ++r) {
      T6_CHECK(sizes[r] <= INT_MAX - total, "[{}] expected less than 2 GiB of text, rank {} has {} bytes", kWhat, r,
               sizes[r]);
      counts[r] = static_cast<int>(sizes[r]);
      begins[r] = static_cast<int>(total);
      total += sizes[r];
    }
    std::string all(static_cast<size_t>(total), '\0');
    check_mpi(MPI_Iallgatherv(text.data(), counts[static_cast<size_t>(rank())], MPI_CHAR, all.data(), counts.data(),
                              begins.data(), MPI_CHAR, comm_, &request),
              kWhat);
    await(request, kWhat);
    std::vector<std::string> texts;
    for (size_t r = 0; r < ranks; ++r) {
      texts.push_back(all.substr(static_cast<size_t>(begins[r]), static_cast<size_t>(counts[r])));
    }
    return texts;
  }

  Device device_;
  std::vector<Tensor> held_;
  std::unique_ptr<gpu::Stream> stream_;
  std::atomic<Clock::rep> give_up_at_{Clock::duration::max().count()};
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::unique_ptr<MpiBlocks> blocks_;
  WorkQueue queue_;  // last: its thread ends before what it uses
};

}  // namespace

bool has_mpi() {
  return true;
}

std::unique_ptr<Communicator> mpi(const Ranks& ranks, Device device) {
  return std::make_unique<Mpi>(ranks, device);
}

}  // namespace t6::dist

#else

namespace t6::dist {

bool has_mpi() {
  return false;
}

std::unique_ptr<Communicator> mpi(const Ranks& ranks, Device) {
  fail(ExitCode::usage,
       "this build has no MPI, which {} ranks on CPUs need; install libopenmpi-dev (scripts/setup.sh) and build again",
       ranks.world);
}

}  // namespace t6::dist

#endif
