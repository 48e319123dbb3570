#include "dist/mpi.h"

#include "base/error.h"

#if defined(T6_HAVE_MPI)

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <exception>
#include <thread>
#include <type_traits>

#include "dist/checks.h"
#include "dist/work_queue.h"
#include "tensor/gpu.h"

namespace t6::dist {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr int64_t kPartBytes = int64_t{1} << 18;  // of a message
constexpr int kWindow = 4;                        // blocks under way at once
constexpr int kTags = 1 << 14;                    // twice this is below what every MPI has
constexpr auto kLastWait = std::chrono::seconds(2);

void check(int status, const char* what) {
  if (status == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(status, text.data(), &length);
  fail(ExitCode::peer, "[mpi] {} failed: {}", what, text.data());
}

// MPI offers no wait that leaves the core to others: a wait is a loop of questions, ever further apart.
class Patience {
 public:
  void pause() const {
    const auto waited = std::chrono::duration_cast<microseconds>(Clock::now() - since_);
    if (waited < microseconds(20)) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::clamp(waited / 8, microseconds(10), microseconds(500)));
    }
  }
  void progress() { since_ = Clock::now(); }

 private:
  Clock::time_point since_ = Clock::now();
};

enum class Kind { all_reduce, reduce_scatter, all_gather, broadcast, exchange, send, receive };

constexpr const char* kNames[] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast",
                                  "exchange",   "send",           "receive"};

// Elements [begin, begin + count) of a tensor: what one message moves.
struct Part {
  int64_t begin = 0;
  int count = 0;
};

// out = the sum of `world` arrays in their order, in f32 where they are bf16 or f32. `out` may be one of them.
template <class T>
void add_up(T* out, const std::vector<const void*>& arrays, int n) {
  using Sum = std::conditional_t<std::is_same_v<T, int32_t>, int32_t, Accumulate<T>>;
  constexpr int kChunk = 1024;
  Sum sums[kChunk];
  for (int begin = 0; begin < n; begin += kChunk) {
    const int count = std::min(kChunk, n - begin);
    for (size_t k = 0; k < arrays.size(); ++k) {
      const T* x = static_cast<const T*>(arrays[k]) + begin;
      if (k == 0) {
#pragma omp simd
        for (int i = 0; i < count; ++i) sums[i] = static_cast<Sum>(x[i]);
      } else {
#pragma omp simd
        for (int i = 0; i < count; ++i) sums[i] += static_cast<Sum>(x[i]);
      }
    }
    for (int i = 0; i < count; ++i) {
      if constexpr (std::is_same_v<T, int32_t>) {
        out[begin + i] = sums[i];
      } else {
        store(out[begin + i], sums[i]);
      }
    }
  }
}

MPI_Datatype type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::bf16:
      return MPI_UINT16_T;
    default:
      return MPI_INT32_T;
  }
}

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
    push({Kind::all_reduce, 0, x, {}});
  }
  void reduce_scatter(const Tensor& x) override {
    require_tensor("reduce_scatter", x, device_);
    require_slices("reduce_scatter", x, world());
    push({Kind::reduce_scatter, 0, x, {}});
  }
  void all_gather(const Tensor& x) override {
    require_tensor("all_gather", x, device_);
    require_slices("all_gather", x, world());
    push({Kind::all_gather, 0, x, {}});
  }
  void broadcast(const Tensor& x, int root) override {
    require_tensor("broadcast", x, device_);
    require_rank("broadcast", root, world());
    push({Kind::broadcast, root, x, {}});
  }
  void exchange(int peer, const Tensor& send, const Tensor& receive) override {
    require_tensor("exchange", send, device_);
    require_tensor("exchange", receive, device_);
    require_peer("exchange", peer, rank(), world());
    require_equal("exchange", send, receive);
    push({Kind::exchange, peer, send, receive});
  }
  void send(int peer, const Tensor& x) override {
    require_tensor("send", x, device_);
    require_peer("send", peer, rank(), world());
    push({Kind::send, peer, x, {}});
  }
  void receive(int peer, const Tensor& x) override {
    require_tensor("receive", x, device_);
    require_peer("receive", peer, rank(), world());
    push({Kind::receive, peer, x, {}});
  }

  void wait() override {
    queue_.wait();
    held_.clear();
  }

  std::vector<std::string> all_gather_text(std::string_view text) override {
    std::vector<std::string> texts;
    queue_.push([&] { texts = gather(text); });
    queue_.wait();
    return texts;
  }

  std::string failure() override { return queue_.failure(); }
  void abort() noexcept override { give_up_after(Clock::duration::zero()); }

 private:
  struct Operation {
    Kind kind;
    int peer;  // the root, or the other rank
    Tensor x;
    Tensor received;  // exchange

    const char* what() const { return kNames[static_cast<size_t>(kind)]; }
    bool with_all() const {
      return kind == Kind::all_reduce || kind == Kind::reduce_scatter || kind == Kind::all_gather;
    }
  };

  // A block of an operation under way: a part for every rank, or one for them all.
  struct Slot {
    bool busy = false;
    bool sums = false;  // the messages under way are what others add to the sum
    int tag = 0;
    std::vector<Part> parts;
    std::vector<MPI_Request> requests;
    std::vector<MPI_Status> statuses;
    std::vector<int> expected;                             // elements of each request that receives; -1: it sends
    std::vector<std::byte> summands;                       // a part of every rank
    std::vector<std::unique_ptr<gpu::HostBuffer>> staged;  // the parts of a GPU's tensor
  };

  // The last owner of a GPU's tensor lets go of it in the caller's thread, at wait().
  void push(Operation operation) {
    std::shared_ptr<gpu::Event> ready;
    if (device_.is_cuda()) {
      ready = std::make_shared<gpu::Event>();
      ready->record();
      held_.push_back(operation.x);
      held_.push_back(operation.received);
    }
    queue_.push([this, ready, o = std::move(operation)] {
      if (ready != nullptr) stream_->follow(*ready);
      run(o);
    });
  }

  // From here on: the thread of MPI.

  void start() {
    prctl(PR_SET_TIMERSLACK, 1000UL);  // short sleeps are short
    int initialized = 0, provided = 0;
    MPI_Initialized(&initialized);
    T6_CHECK(!initialized, "[mpi] MPI is initialised once a process");
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    int mpi_rank = 0, mpi_world = 0;
    check(MPI_Comm_rank(comm_, &mpi_rank), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &mpi_world), "MPI_Comm_size");
    if (mpi_rank == rank() && mpi_world == world()) return;
    give_up_after(kLastWait);
    try {
      finish();
    } catch (const Error&) {
      // what follows says more
    }
    fail(ExitCode::usage,
         "expected MPI to know this process as rank {} of {}, but to MPI it is rank {} of {}; start all ranks by "
         "mpirun, "
         "or by srun with MPI's --mpi=pmix",
         rank(), world(), mpi_rank, mpi_world);
  }

  void finish() {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(comm_, &request), "the last barrier");
    await(request, "the last barrier");
    MPI_Comm_free(&comm_);
    MPI_Finalize();
  }

  void give_up_after(Clock::duration time) noexcept { give_up_at_ = (Clock::now() + time).time_since_epoch().count(); }

  void require_going_on(const char* what) const {
    if (Clock::now().time_since_epoch().count() >= give_up_at_) fail(ExitCode::peer, "[mpi] {} was given up", what);
  }

  void await(MPI_Request& request, const char* what) const {
    const Patience patience;
    for (int done = 0;;) {
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), what);
      if (done) return;
      require_going_on(what);
      patience.pause();
    }
  }

  // The parts of block `index`; none: there is no such block.
  std::vector<Part> parts_of(const Operation& o, int64_t index) const {
    const int64_t most = kPartBytes / static_cast<int64_t>(size_of(o.x.dtype()));
    const int64_t n = o.x.numel();
    std::vector<Part> parts;
    const auto add = [&](int64_t begin, int64_t count) { parts.push_back({begin, static_cast<int>(count)}); };
    if (!o.with_all()) {
      if (index * most < n) add(index * most, std::min(most, n - index * most));
    } else if (o.kind == Kind::all_reduce) {
      const int64_t begin = index * most * world(), count = std::min(most * world(), n - begin);
      for (int64_t r = 0; count > 0 && r < world(); ++r) {
        const int64_t from = count * r / world(), to = count * (r + 1) / world();
        add(begin + from, to - from);
      }
    } else {
      const int64_t slice = n / world(), begin = index * most;
      for (int64_t r = 0; begin < slice && r < world(); ++r) add(r * slice + begin, std::min(most, slice - begin));
    }
    return parts;
  }

  void run(const Operation& o) {
    require_going_on(o.what());
    if (world() == 1) return;
    int64_t next = 0;
    bool more = true;
    int busy = 0;
    for (Patience patience; more || busy > 0;) {
      bool progress = false;
      for (Slot& slot : slots_) {
        if (!slot.busy && more) {
          slot.parts = parts_of(o, next);
          more = !slot.parts.empty();
          if (!more) continue;
          begin(o, slot, static_cast<int>(next++ % kTags));
          ++busy;
          progress = true;
        } else if (slot.busy && arrived(o, slot)) {
          progress = true;
          if (!go_on(o, slot)) --busy;
        }
      }
      if (progress) {
        patience.progress();
      } else {
        require_going_on(o.what());
        patience.pause();
      }
    }
  }

  // Where a part lies for MPI.
  std::byte* at(const Tensor& x, Slot& slot, size_t part) const {
    if (device_.is_cuda()) return slot.staged[part]->data();
    return static_cast<std::byte*>(x.raw()) + slot.parts[part].begin * static_cast<int64_t>(size_of(x.dtype()));
  }
  void fetch(const Tensor& x, Slot& slot, size_t part) { stage(x, slot, part, true); }
  void put_back(const Tensor& x, Slot& slot, size_t part) { stage(x, slot, part, false); }
  void stage(const Tensor& x, Slot& slot, size_t part, bool to_host) {
    if (!device_.is_cuda()) return;
    const size_t size = size_of(x.dtype());
    std::byte* data = static_cast<std::byte*>(x.raw()) + static_cast<size_t>(slot.parts[part].begin) * size;
    const size_t bytes = static_cast<size_t>(slot.parts[part].count) * size;
    if (to_host) {
      stream_->copy_to_host(*slot.staged[part], data, bytes);
    } else {
      stream_->copy_to_device(data, *slot.staged[part], bytes);
    }
  }

  void begin(const Operation& o, Slot& slot, int tag) {
    slot.busy = true;
    slot.sums = false;
    slot.tag = 2 * tag;
    slot.requests.clear();
    slot.expected.clear();
    const auto me = static_cast<size_t>(rank());
    if (device_.is_cuda()) {
      // An exchange sends from one and receives into another.
      while (slot.staged.size() < slot.parts.size() + 1) {
        slot.staged.push_back(std::make_unique<gpu::HostBuffer>(kPartBytes));
      }
      if (o.kind == Kind::all_gather) {
        fetch(o.x, slot, me);
      } else if (o.kind != Kind::receive && !(o.kind == Kind::broadcast && o.peer != rank())) {
        for (size_t r = 0; r < slot.parts.size(); ++r) fetch(o.x, slot, r);
      }
      stream_->wait();
    }
    switch (o.kind) {
      case Kind::all_reduce:
      case Kind::reduce_scatter:
        begin_sum(o, slot);
        break;
      case Kind::all_gather:
        begin_gather(o, slot);
        break;
      case Kind::broadcast: {
        MPI_Request& request = slot.requests.emplace_back(MPI_REQUEST_NULL);
        slot.expected.push_back(-1);
        check(MPI_Ibcast(at(o.x, slot, 0), slot.parts[0].count, type_of(o.x.dtype()), o.peer, comm_, &request),
              o.what());
        break;
      }
      case Kind::exchange:
        receive_into(o, slot, received_at(o, slot), slot.parts[0].count, o.peer);
        send_from(o, slot, at(o.x, slot, 0), slot.parts[0].count, o.peer);
        break;
      case Kind::send:
        send_from(o, slot, at(o.x, slot, 0), slot.parts[0].count, o.peer);
        break;
      case Kind::receive:
        receive_into(o, slot, at(o.x, slot, 0), slot.parts[0].count, o.peer);
        break;
    }
  }

  std::byte* received_at(const Operation& o, Slot& slot) const {
    if (device_.is_cuda()) return slot.staged[1]->data();
    return at(o.received, slot, 0);
  }

  // Rank r adds up part r of all ranks.
  void begin_sum(const Operation& o, Slot& slot) {
    const auto me = static_cast<size_t>(rank());
    const size_t bytes = static_cast<size_t>(slot.parts[me].count) * size_of(o.x.dtype());
    slot.sums = true;
    slot.summands.resize(bytes * slot.parts.size());
    for (const size_t r : others(slot)) {
      receive_into(o, slot, slot.summands.data() + r * bytes, slot.parts[me].count, static_cast<int>(r));
    }
    for (const size_t r : others(slot)) {
      send_from(o, slot, at(o.x, slot, r), slot.parts[r].count, static_cast<int>(r));
    }
  }

  // In the order of ranks: the same bits wherever a sum is formed.
  void finish_sum(const Operation& o, Slot& slot) const {
    const auto me = static_cast<size_t>(rank());
    const size_t bytes = static_cast<size_t>(slot.parts[me].count) * size_of(o.x.dtype());
    std::byte* mine = at(o.x, slot, me);
    std::vector<const void*> arrays;
    for (size_t r = 0; r < slot.parts.size(); ++r) {
      arrays.push_back(r == me ? mine : slot.summands.data() + r * bytes);
    }
    const auto add = [&]<class T>(T) { add_up(reinterpret_cast<T*>(mine), arrays, slot.parts[me].count); };
    if (o.x.dtype() == DType::i32) {
      add(int32_t{});
    } else {
      dispatch_float(o.x.dtype(), add);
    }
  }

  // Rank r gives part r to the others.
  void begin_gather(const Operation& o, Slot& slot) {
    const auto me = static_cast<size_t>(rank());
    for (const size_t r : others(slot)) {
      receive_into(o, slot, at(o.x, slot, r), slot.parts[r].count, static_cast<int>(r));
    }
    for (const size_t r : others(slot)) {
      send_from(o, slot, at(o.x, slot, me), slot.parts[me].count, static_cast<int>(r));
    }
  }

  // From the next rank on: not all to rank 0 at first.
  std::vector<size_t> others(const Slot& slot) const {
    std::vector<size_t> ranks;
    for (size_t k = 1; k < slot.parts.size(); ++k) {
      ranks.push_back((static_cast<size_t>(rank()) + k) % slot.parts.size());
    }
    return ranks;
  }

  void send_from(const Operation& o, Slot& slot, const void* data, int count, int peer) {
    if (count == 0) return;
    MPI_Request& request = slot.requests.emplace_back(MPI_REQUEST_NULL);
    slot.expected.push_back(-1);
    check(MPI_Isend(data, count, type_of(o.x.dtype()), peer, slot.tag, comm_, &request), o.what());
  }
  void receive_into(const Operation& o, Slot& slot, void* data, int count, int peer) {
    if (count == 0) return;
    MPI_Request& request = slot.requests.emplace_back(MPI_REQUEST_NULL);
    slot.expected.push_back(count);
    check(MPI_Irecv(data, count, type_of(o.x.dtype()), peer, slot.tag, comm_, &request), o.what());
  }

  bool arrived(const Operation& o, Slot& slot) const {
    int done = 0;
    slot.statuses.resize(slot.requests.size());
    const int status =
        MPI_Testall(static_cast<int>(slot.requests.size()), slot.requests.data(), &done, slot.statuses.data());
    if (status == MPI_ERR_IN_STATUS) {
      for (const MPI_Status& s : slot.statuses) {
        if (s.MPI_ERROR != MPI_ERR_PENDING) check(s.MPI_ERROR, o.what());
      }
    }
    check(status, o.what());
    if (!done) return false;
    for (size_t i = 0; i < slot.requests.size(); ++i) {
      int came = slot.expected[i];
      if (came >= 0) check(MPI_Get_count(&slot.statuses[i], type_of(o.x.dtype()), &came), o.what());
      if (came != slot.expected[i]) {
        fail(ExitCode::peer, "[mpi] {}: expected {} elements from rank {}, {} came", o.what(), slot.expected[i],
             slot.statuses[i].MPI_SOURCE, came);
      }
    }
    return true;
  }

  // Takes what has arrived. False when that was the block's end.
  bool go_on(const Operation& o, Slot& slot) {
    const auto me = static_cast<size_t>(rank());
    if (slot.sums) {
      finish_sum(o, slot);
      slot.sums = false;
      if (o.kind == Kind::all_reduce) {
        slot.requests.clear();
        slot.expected.clear();
        ++slot.tag;
        begin_gather(o, slot);
        return true;
      }
    }
    slot.busy = false;
    if (!device_.is_cuda()) return false;
    if (o.kind == Kind::reduce_scatter) {
      put_back(o.x, slot, me);
    } else if (o.kind == Kind::exchange) {
      stream_->copy_to_device(
          static_cast<std::byte*>(o.received.raw()) + slot.parts[0].begin * static_cast<int64_t>(size_of(o.x.dtype())),
          *slot.staged[1], static_cast<size_t>(slot.parts[0].count) * size_of(o.x.dtype()));
    } else if (o.kind != Kind::send) {
      for (size_t r = 0; r < slot.parts.size(); ++r) put_back(o.x, slot, r);
    }
    stream_->wait();
    return false;
  }

  std::vector<std::string> gather(std::string_view text) {
    constexpr const char* kWhat = "all_gather_text";
    require_going_on(kWhat);
    const auto ranks = static_cast<size_t>(world());
    const auto mine = static_cast<int64_t>(text.size());
    std::vector<int64_t> sizes(ranks);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallgather(&mine, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, comm_, &request), kWhat);
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
    check(MPI_Iallgatherv(text.data(), counts[static_cast<size_t>(rank())], MPI_CHAR, all.data(), counts.data(),
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
  std::array<Slot, kWindow> slots_;
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
