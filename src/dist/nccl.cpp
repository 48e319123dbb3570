#include "dist/nccl.h"

#include "base/error.h"

#if defined(T6_HAVE_NCCL)

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>

#include "dist/checks.h"
#include "dist/nccl_library.h"
#include "tensor/gpu.h"

namespace t6::dist {
namespace {

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::bf16:
      return ncclBfloat16;
    default:
      return ncclInt32;
  }
}

// All ranks hear why one cannot go on, and none waits for it.
std::vector<std::string> exchange_or_fail(const ExchangeTexts& exchange, const std::string& trouble,
                                          const std::string& text) {
  std::vector<std::string> texts = exchange(trouble.empty() ? "+" + text : "-" + trouble);
  for (size_t r = 0; r < texts.size(); ++r) {
    if (!texts[r].starts_with('+')) {
      fail(ExitCode::usage, "rank {} cannot take part in NCCL: {}", r, texts[r].empty() ? "" : texts[r].substr(1));
    }
    texts[r].erase(0, 1);
  }
  return texts;
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const Ranks& ranks, Device device, ExchangeTexts exchange, bool repeatable)
      : Communicator(ranks), device_(device), exchange_(std::move(exchange)) {
    T6_CHECK(device.is_cuda(), "[nccl] expected a GPU, got {}", to_string(device));
    if (repeatable) {
      ::setenv("NCCL_ALGO", "Ring", 0);
      ::setenv("NCCL_PROTO", "Simple", 0);
    }
    connect();
  }

  ~NcclCommunicator() override {
    if (std::uncaught_exceptions() > 0) abort();
    try {
      stream_.wait();
    } catch (const std::exception&) {
      // whoever computes on the device hears of it
    }
    const std::lock_guard lock(life_);
    if (comm_ != nullptr) static_cast<void>(nccl_library().CommDestroy(comm_));
  }

  const char* name() const override { return "nccl"; }

  void all_reduce(const Tensor& x) override {
    require_tensor("all_reduce", x, device_);
    run("all_reduce", {&x}, [&](ncclComm_t comm, cudaStream_t stream) {
      T6_NCCL(nccl_library().AllReduce(x.raw(), x.raw(), count(x), type_of(x.dtype()), ncclSum, comm, stream), comm);
    });
  }

  void reduce_scatter(const Tensor& x) override {
    require_tensor("reduce_scatter", x, device_);
    require_slices("reduce_scatter", x, world());
    run("reduce_scatter", {&x}, [&](ncclComm_t comm, cudaStream_t stream) {
      T6_NCCL(
          nccl_library().ReduceScatter(x.raw(), slice(x), slice_count(x), type_of(x.dtype()), ncclSum, comm, stream),
          comm);
    });
  }

  void all_gather(const Tensor& x) override {
    require_tensor("all_gather", x, device_);
    require_slices("all_gather", x, world());
    run("all_gather", {&x}, [&](ncclComm_t comm, cudaStream_t stream) {
      T6_NCCL(nccl_library().AllGather(slice(x), x.raw(), slice_count(x), type_of(x.dtype()), comm, stream), comm);
    });
  }

  void broadcast(const Tensor& x, int root) override {
    require_tensor("broadcast", x, device_);
    require_rank("broadcast", root, world());
    run("broadcast", {&x}, [&](ncclComm_t comm, cudaStream_t stream) {
      T6_NCCL(nccl_library().Broadcast(x.raw(), x.raw(), count(x), type_of(x.dtype()), root, comm, stream), comm);
    });
  }

  void exchange(int peer, const Tensor& send, const Tensor& receive) override {
    require_tensor("exchange", send, device_);
    require_tensor("exchange", receive, device_);
    require_peer("exchange", peer, rank(), world());
    require_equal("exchange", send, receive);
    run("exchange", {&send, &receive}, [&](ncclComm_t comm, cudaStream_t stream) {
      T6_NCCL(nccl_library().GroupStart(), comm);
      const ncclDataType_t type = type_of(send.dtype());
      const ncclResult_t sent = nccl_library().Send(send.raw(), count(send), type, peer, comm, stream);
      const ncclResult_t received = nccl_library().Recv(receive.raw(), count(receive), type, peer, comm, stream);
      const ncclResult_t ended = nccl_library().GroupEnd();  // also after a failure
      T6_NCCL(sent, comm);
      T6_NCCL(received, comm);
      T6_NCCL(ended, comm);
    });
  }

  void send(int peer, const Tensor& x) override {
    require_tensor("send", x, device_);
    require_peer("send", peer, rank(), world());
    run("send", {&x}, [&](ncclComm_t comm, cudaStream_t stream) {
      T6_NCCL(nccl_library().Send(x.raw(), count(x), type_of(x.dtype()), peer, comm, stream), comm);
    });
  }

  void receive(int peer, const Tensor& x) override {
    require_tensor("receive", x, device_);
    require_peer("receive", peer, rank(), world());
    run("receive", {&x}, [&](ncclComm_t comm, cudaStream_t stream) {
      T6_NCCL(nccl_library().Recv(x.raw(), count(x), type_of(x.dtype()), peer, comm, stream), comm);
    });
  }

  void wait() override {
    stream_.lead();
    held_.clear();  // freed in the device's order, behind what used it
    require_going_on("wait");
  }

  std::string failure() override {
    const std::lock_guard lock(life_);
    if (aborted_) return "it was given up";
    if (comm_ == nullptr) return {};
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = nccl_library().CommGetAsyncError(comm_, &state);
    if (asked != ncclSuccess) state = asked;
    if (state == ncclSuccess || state == ncclInProgress) return {};
    return fmt::format("{} (code {}): {}", nccl_library().GetErrorString(state), static_cast<int>(state),
                       nccl_library().GetLastError(comm_));
  }

  // A call of NCCL that is itself stuck is given a moment to come back, then the communicator is taken from under it.
  void abort() noexcept override {
    const std::lock_guard lock(life_);
    aborted_ = true;
    const ncclComm_t comm = comm_.exchange(nullptr);
    if (comm == nullptr) return;
    const bool quiet = calls_.try_lock_for(std::chrono::milliseconds(200));
    static_cast<void>(nccl_library().CommAbort(comm));
    if (quiet) calls_.unlock();
  }

 private:
  std::vector<std::string> gather_text(std::string_view text) override { return exchange_(text); }

  static size_t count(const Tensor& x) { return static_cast<size_t>(x.numel()); }
  size_t slice_count(const Tensor& x) const { return count(x) / static_cast<size_t>(world()); }
  void* slice(const Tensor& x) const {
    return static_cast<std::byte*>(x.raw()) + x.bytes() / static_cast<size_t>(world()) * static_cast<size_t>(rank());
  }

  void connect() {
    std::string trouble;
    ncclUniqueId id{};
    try {
      static_cast<void>(nccl_library());
      if (rank() == 0) T6_NCCL(nccl_library().GetUniqueId(&id), nullptr);
    } catch (const Error& error) {
      trouble = error.what();
    }
    const std::string mine(id.internal, rank() == 0 ? sizeof id.internal : 0);
    const std::vector<std::string> ids = exchange_or_fail(exchange_, trouble, mine);
    T6_CHECK(ids.size() == static_cast<size_t>(world()) && ids[0].size() == sizeof id.internal,
             "[nccl] expected {} texts with an id of {} bytes first, got {} and {}", world(), sizeof id.internal,
             ids.size(), ids.empty() ? 0 : ids[0].size());
    std::memcpy(id.internal, ids[0].data(), sizeof id.internal);
    ncclComm_t comm = nullptr;
    const ncclResult_t connected = nccl_library().CommInitRank(&comm, world(), id, rank());
    comm_ = comm;
    try {
      T6_NCCL(connected, nullptr);
    } catch (const Error& error) {
      trouble = error.what();
    }
    try {
      exchange_or_fail(exchange_, trouble, "");
    } catch (...) {
      abort();
      throw;
    }
  }

  template <class F>
  void run(const char* what, std::initializer_list<const Tensor*> tensors, F&& call) {
    require_going_on(what);
    if ((*tensors.begin())->numel() == 0) return;
    for (const Tensor* x : tensors) held_.push_back(*x);
    before_.record();
    stream_.follow(before_);
    const std::lock_guard lock(calls_);
    const ncclComm_t comm = comm_;
    if (comm == nullptr) fail(ExitCode::peer, "[nccl] {}: the ranks were disconnected", what);
    call(comm, static_cast<cudaStream_t>(stream_.handle()));
  }

  void require_going_on(const char* what) {
    const std::string why = failure();
    if (!why.empty()) fail(ExitCode::peer, "[nccl] {}: {}", what, why);
  }

  Device device_;
  ExchangeTexts exchange_;
  gpu::Stream stream_;
  gpu::Event before_;
  std::vector<Tensor> held_;               // until wait()
  std::atomic<ncclComm_t> comm_{nullptr};  // null: not connected, or aborted
  bool aborted_ = false;                   // under life_
  std::mutex life_;                        // of the communicator
  std::timed_mutex calls_;                 // held while an operation is asked for
};

}  // namespace

bool has_nccl() {
  return true;
}

std::string nccl_version() {
  int version = 0;
  T6_NCCL(nccl_library().GetVersion(&version), nullptr);
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

std::unique_ptr<Communicator> nccl(const Ranks& ranks, Device device, ExchangeTexts exchange, bool repeatable) {
  return std::make_unique<NcclCommunicator>(ranks, device, std::move(exchange), repeatable);
}

}  // namespace t6::dist

#else

namespace t6::dist {
namespace {
constexpr const char* kNone = "this build has no NCCL: it needs CUDA kernels (cmake --preset cuda) and nccl.h";
}

bool has_nccl() {
  return false;
}

std::string nccl_version() {
  fail(ExitCode::usage, "{}", kNone);
}

std::unique_ptr<Communicator> nccl(const Ranks&, Device, ExchangeTexts, bool) {
  fail(ExitCode::usage, "{}", kNone);
}

}  // namespace t6::dist

#endif
