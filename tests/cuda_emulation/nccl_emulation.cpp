// NCCL between processes of one machine, through shared memory.
//
// Every pair of ranks has a pipe in each direction. A message begins with what it belongs to (operation, type, count,
// root), and a rank that expects another fails, as does one whose peer has died or does not come for
// T6_EMULATED_NCCL_WAIT seconds (30). Sums are formed in the order of ranks and rounded after each addition. Operations
// run when their lazy stream does; one asked of a stream that does not wait for the device stops the program.
#include "nccl.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMostRanks = 8;
constexpr size_t kPipeBytes = size_t{1} << 18;

struct Pipe {
  std::atomic<uint64_t> written, read;
  unsigned char data[kPipeBytes];
};

// Zero when new.
struct Shared {
  std::atomic<int> arrived;
  std::atomic<int> world[kMostRanks];
  std::atomic<int> process[kMostRanks];
  Pipe pipes[kMostRanks][kMostRanks];  // [from][to]
};

enum class Kind : int32_t { all_reduce, reduce_scatter, all_gather, broadcast, message };

struct Header {
  Kind kind;
  int32_t type;
  int32_t root;
  uint32_t number;  // of the operation, where it is of all ranks
  uint64_t count;
  bool operator==(const Header&) const = default;
};

size_t size_of(ncclDataType_t type) {
  return type == ncclBfloat16 ? 2 : type == ncclFloat64 ? 8 : 4;
}

double wait_seconds() {
  const char* text = std::getenv("T6_EMULATED_NCCL_WAIT");
  return text != nullptr ? std::atof(text) : 30;
}

struct Comm {
  int rank, world;
  Shared* shared;
  std::atomic<bool> aborted{false};
  std::atomic<ncclResult_t> error{ncclSuccess};
  std::mutex mutex;
  std::string reason;
  uint32_t number = 0;

  Comm(int r, int w, Shared* s) : rank(r), world(w), shared(s) {}
  ~Comm() { ::munmap(shared, sizeof(Shared)); }
  Comm(const Comm&) = delete;

  void fail(ncclResult_t result, std::string why) {
    const std::lock_guard lock(mutex);
    if (error != ncclSuccess) return;
    reason = std::move(why);
    error = result;
  }
};

// One direction to or from a peer: the header, then the data.
struct Transfer {
  bool send;
  int peer;
  Header header;
  unsigned char* data;
  size_t bytes;
  size_t at = 0;  // of header and data together
  Header came{};

  size_t total() const { return sizeof(Header) + bytes; }
};

// Moves what can be moved now.
bool advance(Comm& c, Transfer& t) {
  Pipe& pipe = t.send ? c.shared->pipes[c.rank][t.peer] : c.shared->pipes[t.peer][c.rank];
  const uint64_t written = pipe.written, read = pipe.read;
  size_t room = t.send ? kPipeBytes - (written - read) : written - read;
  uint64_t position = t.send ? written : read;
  bool any = false;
  while (room > 0 && t.at < t.total()) {
    const bool in_header = t.at < sizeof(Header);
    unsigned char* side = in_header ? reinterpret_cast<unsigned char*>(t.send ? &t.header : &t.came) + t.at
                                    : t.data + (t.at - sizeof(Header));
    const size_t rest = in_header ? sizeof(Header) - t.at : t.total() - t.at;
    const size_t place = position % kPipeBytes;
    const size_t n = std::min({room, rest, kPipeBytes - place});
    if (t.send) {
      std::memcpy(pipe.data + place, side, n);
    } else {
      std::memcpy(side, pipe.data + place, n);
    }
    t.at += n;
    position += n;
    room -= n;
    any = true;
    if (!t.send && t.at == sizeof(Header) && t.came != t.header) {
      c.fail(ncclInvalidUsage, "rank " + std::to_string(t.peer) + " does something else: operation " +
                                   std::to_string(static_cast<int>(t.came.kind)) + " of " +
                                   std::to_string(t.came.count) + " elements, here it is " +
                                   std::to_string(static_cast<int>(t.header.kind)) + " of " +
                                   std::to_string(t.header.count));
      break;
    }
  }
  (t.send ? pipe.written : pipe.read) = position;
  return any;
}

// False when it failed.
bool run(Comm& c, std::vector<Transfer>& transfers) {
  auto last = Clock::now();
  while (true) {
    if (c.aborted) c.fail(ncclRemoteError, "aborted");
    if (c.error != ncclSuccess) return false;
    bool any = false, done = true;
    for (Transfer& t : transfers) {
      if (t.at == t.total()) continue;
      any = advance(c, t) || any;
      done = done && t.at == t.total();
    }
    if (c.error != ncclSuccess) return false;
    if (done) return true;
    if (any) {
      last = Clock::now();
      continue;
    }
    const std::chrono::duration<double> waited = Clock::now() - last;
    for (const Transfer& t : transfers) {
      if (t.at == t.total() || waited.count() < 0.2) continue;
      if (::kill(c.shared->process[t.peer], 0) != 0) {
        c.fail(ncclRemoteError, "rank " + std::to_string(t.peer) + " has died");
      } else if (waited.count() > wait_seconds()) {
        c.fail(ncclRemoteError, "rank " + std::to_string(t.peer) + " does not come");
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

float from_bf16(uint16_t x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x) << 16);
}
uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

template <class T>
void add(unsigned char* to, const unsigned char* from, size_t n) {
  for (size_t i = 0; i < n; ++i) reinterpret_cast<T*>(to)[i] += reinterpret_cast<const T*>(from)[i];
}

void add(unsigned char* to, const unsigned char* from, size_t n, ncclDataType_t type) {
  if (type == ncclFloat32) return add<float>(to, from, n);
  if (type == ncclFloat64) return add<double>(to, from, n);
  if (type == ncclInt32) return add<int32_t>(to, from, n);
  auto* x = reinterpret_cast<uint16_t*>(to);
  const auto* y = reinterpret_cast<const uint16_t*>(from);
  for (size_t i = 0; i < n; ++i) x[i] = to_bf16(from_bf16(x[i]) + from_bf16(y[i]));
}

struct Operation {
  std::shared_ptr<Comm> comm;
  Kind kind;
  const unsigned char* from;
  unsigned char* to;
  size_t count;
  ncclDataType_t type;
  int root = 0;  // or the peer
  bool send = false;
  cudaStream_t stream = nullptr;
};

void run_of_all(const Operation& o) {
  Comm& c = *o.comm;
  const size_t world = static_cast<size_t>(c.world), me = static_cast<size_t>(c.rank);
  const size_t bytes = o.count * size_of(o.type);
  const Header header{o.kind, static_cast<int32_t>(o.type), o.root, ++c.number, o.count};
  // Each of the parts that go to and come from others. Inputs and outputs may be one, so sums and gathers are formed
  // aside.
  const size_t sent = o.kind == Kind::reduce_scatter ? bytes * world : bytes;
  std::vector<unsigned char> mine(o.from, o.from + sent);
  std::vector<std::vector<unsigned char>> theirs(world, std::vector<unsigned char>(bytes));
  std::vector<Transfer> transfers;
  for (size_t r = 0; r < world; ++r) {
    if (r == me) continue;
    const size_t begin = o.kind == Kind::reduce_scatter ? r * bytes : 0;
    const bool gives = o.kind != Kind::broadcast || o.root == c.rank;
    const bool takes = o.kind != Kind::broadcast || o.root == static_cast<int>(r);
    if (gives) transfers.push_back({true, static_cast<int>(r), header, mine.data() + begin, bytes});
    if (takes) transfers.push_back({false, static_cast<int>(r), header, theirs[r].data(), bytes});
  }
  if (!run(c, transfers)) return;
  if (bytes == 0) return;
  std::memcpy(theirs[me].data(), mine.data() + (o.kind == Kind::reduce_scatter ? me * bytes : 0), bytes);
  switch (o.kind) {
    case Kind::all_gather:
      for (size_t r = 0; r < world; ++r) std::memcpy(o.to + r * bytes, theirs[r].data(), bytes);
      break;
    case Kind::broadcast:
      std::memcpy(o.to, theirs[static_cast<size_t>(o.root)].data(), bytes);
      break;
    default:
      for (size_t r = 1; r < world; ++r) add(theirs[0].data(), theirs[r].data(), o.count, o.type);
      std::memcpy(o.to, theirs[0].data(), bytes);
  }
}

void run_messages(const std::vector<Operation>& messages) {
  std::vector<Transfer> transfers;
  for (const Operation& o : messages) {
    const Header header{Kind::message, static_cast<int32_t>(o.type), 0, 0, o.count};
    unsigned char* data = o.send ? const_cast<unsigned char*>(o.from) : o.to;
    transfers.push_back({o.send, o.root, header, data, o.count * size_of(o.type)});
  }
  run(*messages[0].comm, transfers);
}

thread_local int group_depth = 0;
thread_local std::vector<Operation> group;

ncclResult_t close_group() {
  std::vector<Operation> operations = std::move(group);
  group.clear();
  if (operations.empty()) return ncclSuccess;
  const cudaStream_t stream = operations[0].stream;
  if (!t6_emulation::follows_device(stream)) {
    std::fprintf(stderr, "emulated NCCL: an operation does not wait for what the device was asked before\n");
    std::abort();
  }
  t6_emulation::enqueue_on(stream, [operations] {
    std::vector<Operation> messages;
    for (const Operation& o : operations) {
      if (o.kind == Kind::message) {
        messages.push_back(o);
      } else {
        run_of_all(o);
      }
    }
    if (!messages.empty()) run_messages(messages);
  });
  return ncclSuccess;
}

}  // namespace

struct t6_emulated_comm {
  std::shared_ptr<Comm> comm;
};

namespace {

ncclResult_t ask(ncclComm_t comm, Operation operation, cudaStream_t stream) {
  const ncclResult_t error = comm->comm->error;
  if (error != ncclSuccess) return error;
  if (operation.root < 0 || operation.root >= comm->comm->world) return ncclInvalidArgument;
  operation.comm = comm->comm;
  operation.stream = stream;
  group.push_back(std::move(operation));
  return group_depth == 0 ? close_group() : ncclSuccess;
}

const unsigned char* bytes_of(const void* data) {
  return static_cast<const unsigned char*>(data);
}
unsigned char* bytes_of(void* data) {
  return static_cast<unsigned char*>(data);
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = 20000;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  static const std::array<const char*, 8> names = {"no error",
                                                   "unhandled cuda error",
                                                   "unhandled system error",
                                                   "internal error",
                                                   "invalid argument",
                                                   "invalid usage",
                                                   "remote process exited or there was a network error",
                                                   "in progress"};
  return names[static_cast<size_t>(result)];
}
const char* ncclGetLastError(ncclComm_t comm) {
  if (comm == nullptr) return "";
  const std::lock_guard lock(comm->comm->mutex);
  return comm->comm->reason.c_str();
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  std::random_device random;
  std::snprintf(id->internal, sizeof id->internal, "/t6-nccl-%d-%08x%08x", ::getpid(), random(), random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int world, ncclUniqueId id, int rank) {
  if (world < 1 || world > kMostRanks || rank < 0 || rank >= world) return ncclInvalidArgument;
  const int file = ::shm_open(id.internal, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) return ncclSystemError;
  void* memory = MAP_FAILED;
  if (::ftruncate(file, sizeof(Shared)) == 0) {
    memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  ::close(file);
  if (memory == MAP_FAILED) return ncclSystemError;
  auto made = std::make_shared<Comm>(rank, world, static_cast<Shared*>(memory));
  Shared& shared = *made->shared;
  shared.world[rank] = world;
  shared.process[rank] = ::getpid();
  ++shared.arrived;
  const auto start = Clock::now();
  while (shared.arrived < world) {
    if (std::chrono::duration<double>(Clock::now() - start).count() > wait_seconds()) {
      ::shm_unlink(id.internal);
      return ncclSystemError;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  ::shm_unlink(id.internal);
  for (int r = 0; r < world; ++r) {
    if (shared.world[r] != world) return ncclInvalidUsage;
  }
  *comm = new t6_emulated_comm{made};
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->comm->aborted = true;
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  *error = comm->comm->error;
  return ncclSuccess;
}
ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group_depth == 0) return ncclInvalidUsage;
  return --group_depth == 0 ? close_group() : ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t, ncclComm_t comm,
                           cudaStream_t stream) {
  return ask(comm, {{}, Kind::all_reduce, bytes_of(from), bytes_of(to), count, type}, stream);
}
ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t comm, cudaStream_t stream) {
  return ask(comm, {{}, Kind::reduce_scatter, bytes_of(from), bytes_of(to), count, type}, stream);
}
ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return ask(comm, {{}, Kind::all_gather, bytes_of(from), bytes_of(to), count, type}, stream);
}
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return ask(comm, {{}, Kind::broadcast, bytes_of(from), bytes_of(to), count, type, root}, stream);
}
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return ask(comm, {{}, Kind::message, bytes_of(from), nullptr, count, type, peer, true}, stream);
}
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return ask(comm, {{}, Kind::message, nullptr, bytes_of(to), count, type, peer, false}, stream);
}
