#if defined(T6_HAVE_MPI)

#include "dist/mpi_blocks.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <thread>
#include <type_traits>

#include "base/error.h"

namespace t6::dist {

void check_mpi(int status, const char* what) {
  if (status == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(status, text.data(), &length);
  fail(ExitCode::peer, "[mpi] {} failed: {}", what, text.data());
}

void Patience::pause() const {
  const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - since_);
  if (waited < std::chrono::microseconds(20)) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(std::clamp(waited / 8, std::chrono::microseconds(10), std::chrono::microseconds(500)));
  }
}

const char* MpiOperation::what() const {
  static constexpr std::array<const char*, 7> kNames = {"all_reduce", "reduce_scatter", "all_gather", "broadcast",
                                                        "exchange",   "send",           "receive"};
  return kNames[static_cast<size_t>(kind)];
}

namespace {

constexpr int64_t kPartBytes = int64_t{1} << 18;  // of a message
constexpr int kWindow = 4;                        // blocks under way at once
constexpr int kTags = 1 << 14;                    // blocks under way at once differ in theirs; every MPI has as many

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

}  // namespace

struct MpiBlocks::Impl {
  Impl(MPI_Comm comm, Device device, gpu::Stream* stream, std::function<void(const char*)> require_going_on)
      : comm_(comm), device_(device), stream_(stream), require_going_on_(std::move(require_going_on)) {
    check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &world_), "MPI_Comm_size");
  }

  // The parts of block `index`; none: there is no such block.
  std::vector<Part> parts_of(const MpiOperation& o, int64_t index) const {
    const int64_t most = kPartBytes / static_cast<int64_t>(size_of(o.x.dtype()));
    const int64_t n = o.x.numel();
    std::vector<Part> parts;
    const auto add = [&](int64_t begin, int64_t count) { parts.push_back({begin, static_cast<int>(count)}); };
    if (!o.with_all()) {
      if (index * most < n) add(index * most, std::min(most, n - index * most));
    } else if (o.kind == MpiKind::all_reduce) {
      const int64_t begin = index * most * world_, count = std::min(most * world_, n - begin);
      for (int64_t r = 0; count > 0 && r < world_; ++r) {
        const int64_t from = count * r / world_, to = count * (r + 1) / world_;
        add(begin + from, to - from);
      }
    } else {
      const int64_t slice = n / world_, begin = index * most;
      for (int64_t r = 0; begin < slice && r < world_; ++r) add(r * slice + begin, std::min(most, slice - begin));
    }
    return parts;
  }

  void run(const MpiOperation& o) {
    require_going_on_(o.what());
    if (world_ == 1) return;
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
        require_going_on_(o.what());
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

  void begin(const MpiOperation& o, Slot& slot, int tag) {
    slot.busy = true;
    slot.sums = false;
    slot.tag = tag;
    slot.requests.clear();
    slot.expected.clear();
    const auto me = static_cast<size_t>(rank_);
    if (device_.is_cuda()) {
      // An exchange sends from one and receives into another.
      while (slot.staged.size() < slot.parts.size() + 1) {
        slot.staged.push_back(std::make_unique<gpu::HostBuffer>(kPartBytes));
      }
      if (o.kind == MpiKind::all_gather) {
        fetch(o.x, slot, me);
      } else if (o.kind != MpiKind::receive && !(o.kind == MpiKind::broadcast && o.peer != rank_)) {
        for (size_t r = 0; r < slot.parts.size(); ++r) fetch(o.x, slot, r);
      }
      stream_->wait();
    }
    switch (o.kind) {
      case MpiKind::all_reduce:
      case MpiKind::reduce_scatter:
        begin_sum(o, slot);
        break;
      case MpiKind::all_gather:
        begin_gather(o, slot);
        break;
      case MpiKind::broadcast: {
        MPI_Request& request = slot.requests.emplace_back(MPI_REQUEST_NULL);
        slot.expected.push_back(-1);
        check_mpi(MPI_Ibcast(at(o.x, slot, 0), slot.parts[0].count, type_of(o.x.dtype()), o.peer, comm_, &request),
                  o.what());
        break;
      }
      case MpiKind::exchange:
        receive_into(o, slot, received_at(o, slot), slot.parts[0].count, o.peer);
        send_from(o, slot, at(o.x, slot, 0), slot.parts[0].count, o.peer);
        break;
      case MpiKind::send:
        send_from(o, slot, at(o.x, slot, 0), slot.parts[0].count, o.peer);
        break;
      case MpiKind::receive:
        receive_into(o, slot, at(o.x, slot, 0), slot.parts[0].count, o.peer);
        break;
    }
  }

  std::byte* received_at(const MpiOperation& o, Slot& slot) const {
    if (device_.is_cuda()) return slot.staged[1]->data();
    return at(o.received, slot, 0);
  }

  // Rank r adds up part r of all ranks.
  void begin_sum(const MpiOperation& o, Slot& slot) {
    const auto me = static_cast<size_t>(rank_);
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
  void finish_sum(const MpiOperation& o, Slot& slot) const {
    const auto me = static_cast<size_t>(rank_);
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
  void begin_gather(const MpiOperation& o, Slot& slot) {
    const auto me = static_cast<size_t>(rank_);
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
      ranks.push_back((static_cast<size_t>(rank_) + k) % slot.parts.size());
    }
    return ranks;
  }

  void send_from(const MpiOperation& o, Slot& slot, const void* data, int count, int peer) {
    if (count == 0) return;
    MPI_Request& request = slot.requests.emplace_back(MPI_REQUEST_NULL);
    slot.expected.push_back(-1);
    check_mpi(MPI_Isend(data, count, type_of(o.x.dtype()), peer, slot.tag, comm_, &request), o.what());
  }
  void receive_into(const MpiOperation& o, Slot& slot, void* data, int count, int peer) {
    if (count == 0) return;
    MPI_Request& request = slot.requests.emplace_back(MPI_REQUEST_NULL);
    slot.expected.push_back(count);
    check_mpi(MPI_Irecv(data, count, type_of(o.x.dtype()), peer, slot.tag, comm_, &request), o.what());
  }

  bool arrived(const MpiOperation& o, Slot& slot) const {
    int done = 0;
    slot.statuses.resize(slot.requests.size());
    const int status =
        MPI_Testall(static_cast<int>(slot.requests.size()), slot.requests.data(), &done, slot.statuses.data());
    if (status == MPI_ERR_IN_STATUS) {
      for (const MPI_Status& s : slot.statuses) {
        if (s.MPI_ERROR != MPI_ERR_PENDING) check_mpi(s.MPI_ERROR, o.what());
      }
    }
    check_mpi(status, o.what());
    if (!done) return false;
    for (size_t i = 0; i < slot.requests.size(); ++i) {
      int came = slot.expected[i];
      if (came >= 0) check_mpi(MPI_Get_count(&slot.statuses[i], type_of(o.x.dtype()), &came), o.what());
      if (came != slot.expected[i]) {
        fail(ExitCode::peer, "[mpi] {}: expected {} elements from rank {}, {} came", o.what(), slot.expected[i],
             slot.statuses[i].MPI_SOURCE, came);
      }
    }
    return true;
  }

  // Takes what has arrived. False when that was the block's end.
  bool go_on(const MpiOperation& o, Slot& slot) {
    const auto me = static_cast<size_t>(rank_);
    if (slot.sums) {
      finish_sum(o, slot);
      slot.sums = false;
      if (o.kind == MpiKind::all_reduce) {
        slot.requests.clear();
        slot.expected.clear();
        begin_gather(o, slot);
        return true;
      }
    }
    slot.busy = false;
    if (!device_.is_cuda()) return false;
    if (o.kind == MpiKind::reduce_scatter) {
      put_back(o.x, slot, me);
    } else if (o.kind == MpiKind::exchange) {
      stream_->copy_to_device(
          static_cast<std::byte*>(o.received.raw()) + slot.parts[0].begin * static_cast<int64_t>(size_of(o.x.dtype())),
          *slot.staged[1], static_cast<size_t>(slot.parts[0].count) * size_of(o.x.dtype()));
    } else if (o.kind != MpiKind::send) {
      for (size_t r = 0; r < slot.parts.size(); ++r) put_back(o.x, slot, r);
    }
    stream_->wait();
    return false;
  }

  MPI_Comm comm_;
  Device device_;
  gpu::Stream* stream_;
  std::function<void(const char*)> require_going_on_;
  int rank_ = 0, world_ = 1;
  std::array<Slot, kWindow> slots_;
};

MpiBlocks::MpiBlocks(MPI_Comm comm, Device device, gpu::Stream* stream,
                     std::function<void(const char*)> require_going_on)
    : impl_(std::make_unique<Impl>(comm, device, stream, std::move(require_going_on))) {}
MpiBlocks::~MpiBlocks() = default;

void MpiBlocks::run(const MpiOperation& operation) {
  impl_->run(operation);
}

}  // namespace t6::dist

#endif
