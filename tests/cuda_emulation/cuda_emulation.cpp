#include <algorithm>
#include <atomic>
#include <boost/context/detail/fcontext.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace t6::cuda {
// Defined where tensor/cuda.h declares it; the block's dynamic shared memory. sm_80 has 163 KiB.
inline constexpr size_t kMaxSharedBytes = size_t{163} << 10;
__attribute__((aligned(16))) thread_local unsigned char t6_dynamic_shared[kMaxSharedBytes];
}  // namespace t6::cuda

namespace t6_emulation {
namespace {

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

constexpr int kWarp = 32;
constexpr size_t kMaxGather = 64;
constexpr size_t kStackBytes = size_t{64} << 10;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "emulated GPU: %s; block (%u, %u, %u), thread (%u, %u, %u)\n", what, blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

// Threads that wait for each other: a block, or the lanes of one warp operation.
struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

struct Copy {
  void* to;
  const void* from;
  bool zero;
  int group;
};

struct Fiber {
  fcontext_t context = nullptr;
  dim3 index;
  int number = 0;  // in the block
  bool done = false;
  std::vector<Copy> copies;    // begun and not finished
  int copy_groups = 0;         // ended
  void* fake_stack = nullptr;  // of the address sanitizer
  std::unique_ptr<unsigned char[]> stack;
};

struct Warp {
  Barrier barrier;
  unsigned mask = 0;  // of the operation under way
  unsigned exited = 0;
  uint64_t values[kWarp] = {};
  unsigned char gathered[kWarp * kMaxGather] = {};
  unsigned predicates = 0;
};

// The block that this thread of the host runs.
struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  int live = 0;
  bool progress = false;
  int current = 0;
  fcontext_t scheduler = nullptr;
  const std::function<void()>* thread = nullptr;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;

  Fiber& fiber() { return fibers[static_cast<size_t>(current)]; }
  Warp& warp() { return warps[static_cast<size_t>(current / kWarp)]; }
};

Block& block() {
  thread_local Block state;
  return state;
}

void before_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* stack,
                   [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
#endif
}
void after_switch([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** from,
                  [[maybe_unused]] size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, from, bytes);
#endif
}

// From a fiber to the scheduler; returns when the fiber is run again, never when it is done.
void leave(Block& b, bool done) {
  Fiber& f = b.fiber();
  before_switch(done ? nullptr : &f.fake_stack, b.scheduler_stack, b.scheduler_stack_bytes);
  const transfer_t back = jump_fcontext(b.scheduler, nullptr);
  after_switch(f.fake_stack, &b.scheduler_stack, &b.scheduler_stack_bytes);
  b.scheduler = back.fctx;
}

void fiber_main(transfer_t from) {
  Block& b = block();
  b.scheduler = from.fctx;
  after_switch(nullptr, &b.scheduler_stack, &b.scheduler_stack_bytes);
  (*b.thread)();
  b.fiber().done = true;
  b.progress = true;
  --b.live;
  Warp& w = b.warp();
  w.exited |= 1u << b.fiber().number % kWarp;
  // Those who wait for the whole block wait for one fewer.
  if (b.live > 0 && b.barrier.arrived == b.live) {
    b.barrier.arrived = 0;
    ++b.barrier.generation;
  }
  leave(b, true);
}

// The order of blocks and of threads within a block is open: T6_EMULATION_ORDER=reverse runs them from the last to the
// first. Read at every launch, so that a test can compare.
bool reverse_order() {
  const char* order = std::getenv("T6_EMULATION_ORDER");
  return order != nullptr && std::strcmp(order, "reverse") == 0;
}

void run_fiber(Block& b, int number) {
  b.current = number;
  Fiber& f = b.fiber();
  threadIdx = f.index;
  before_switch(&b.scheduler_fake_stack, f.stack.get(), kStackBytes);
  const transfer_t back = jump_fcontext(f.context, nullptr);
  after_switch(b.scheduler_fake_stack, nullptr, nullptr);
  f.context = back.fctx;
}

// Runs a warp as far as it goes without the others: so that a missing __syncthreads() shows. False when it stood still.
bool run_warp(Block& b, int warp, int threads, bool reverse) {
  const int first = warp * kWarp, lanes = std::min(kWarp, threads - first);
  bool any = false;
  do {
    b.progress = false;
    for (int i = 0; i < lanes; ++i) {
      const int t = first + (reverse ? lanes - 1 - i : i);
      if (!b.fibers[static_cast<size_t>(t)].done) run_fiber(b, t);
    }
    any = any || b.progress;
  } while (b.progress);
  return any;
}

// The next bytes behind a block's dynamic shared memory.
constexpr unsigned char kBehind = 0xA5;
std::span<unsigned char> behind_shared(size_t bytes) {
  constexpr size_t kWatched = 1024;
  return {t6::cuda::t6_dynamic_shared + bytes, std::min(kWatched, sizeof(t6::cuda::t6_dynamic_shared) - bytes)};
}

void run_block(const dim3& index, const cudaLaunchConfig_t& config, const std::function<void()>& thread, bool reverse) {
  Block& b = block();
  const dim3 size = config.blockDim;
  const int threads = static_cast<int>(size.x * size.y * size.z);
  blockIdx = index;
  blockDim = size;
  gridDim = config.gridDim;
  if (static_cast<int>(b.fibers.size()) < threads) b.fibers.resize(static_cast<size_t>(threads));
  b.warps.assign(static_cast<size_t>((threads + kWarp - 1) / kWarp), {});
  b.barrier = {};
  b.live = threads;
  b.thread = &thread;
  // Shared memory starts with what happens to be there: NaN.
  std::memset(t6::cuda::t6_dynamic_shared, 0xFF, config.dynamicSmemBytes);
  const std::span<unsigned char> behind = behind_shared(config.dynamicSmemBytes);
  std::fill(behind.begin(), behind.end(), kBehind);
  for (int t = 0; t < threads; ++t) {
    Fiber& f = b.fibers[static_cast<size_t>(t)];
    if (f.stack == nullptr) f.stack.reset(new unsigned char[kStackBytes]);
    const auto at = static_cast<unsigned>(t);
    f.index = dim3(at % size.x, at / size.x % size.y, at / (size.x * size.y));
    f.number = t;
    f.done = false;
    f.copies.clear();
    f.copy_groups = 0;
    f.fake_stack = nullptr;
    f.context = make_fcontext(f.stack.get() + kStackBytes, kStackBytes, &fiber_main);
  }
  const int warps = static_cast<int>(b.warps.size());
  while (b.live > 0) {
    bool progress = false;
    for (int i = 0; i < warps; ++i) progress = run_warp(b, reverse ? warps - 1 - i : i, threads, reverse) || progress;
    if (!progress) stop("a barrier is waited for by some threads and never reached by others");
  }
  if (std::any_of(behind.begin(), behind.end(), [](unsigned char byte) { return byte != kBehind; })) {
    stop("a block has written behind the shared memory that it was launched with");
  }
}

void arrive(Block& b, Barrier& barrier, int expected) {
  b.progress = true;
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  const unsigned generation = barrier.generation;
  while (barrier.generation == generation) leave(b, false);
  b.progress = true;
}

void arrive_warp(Block& b, unsigned mask) {
  Warp& w = b.warp();
  const unsigned me = 1u << b.fiber().number % kWarp;
  if ((mask & me) == 0) stop("a thread takes part in a warp operation whose mask leaves it out");
  if ((mask & w.exited) != 0) stop("a warp operation waits for a lane that has exited");
  if (w.barrier.arrived == 0) w.mask = mask;
  if (w.mask != mask) stop("lanes take part in one warp operation with different masks");
  arrive(b, w.barrier, std::popcount(mask));
}

}  // namespace

void require_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) stop("a pack of numbers is moved from or to an unaligned address");
}

int lane() {
  return block().fiber().number % kWarp;
}
void block_barrier() {
  arrive(block(), block().barrier, block().live);
}
void warp_barrier(unsigned mask) {
  arrive_warp(block(), mask);
}

uint64_t exchange(unsigned mask, uint64_t value, int source) {
  Block& b = block();
  b.warp().values[lane()] = value;
  arrive_warp(b, mask);
  const bool in_mask = source >= 0 && source < kWarp && (mask >> source & 1u) != 0;
  const uint64_t result = in_mask ? b.warp().values[source] : value;
  arrive_warp(b, mask);
  return result;
}

void gather(const void* mine, size_t bytes, void* all) {
  if (bytes > kMaxGather) stop("a lane gives more bytes than a warp can gather");
  Block& b = block();
  std::memcpy(b.warp().gathered + static_cast<size_t>(lane()) * bytes, mine, bytes);
  arrive_warp(b, 0xffffffffu);
  std::memcpy(all, b.warp().gathered, kWarp * bytes);
  arrive_warp(b, 0xffffffffu);
}

void begin_copy(void* to, const void* from, bool zero) {
  require_aligned(to, 16);
  require_aligned(from, 16);
  std::memset(to, 0xFF, 16);
  Fiber& f = block().fiber();
  f.copies.push_back({to, from, zero, f.copy_groups});
}
void end_copy_group() {
  ++block().fiber().copy_groups;
}
void finish_copies(int later_groups) {
  Fiber& f = block().fiber();
  const int end = later_groups == 0 ? f.copy_groups + 1 : f.copy_groups - later_groups;
  std::erase_if(f.copies, [end](const Copy& copy) {
    if (copy.group >= end) return false;
    if (copy.zero) {
      std::memset(copy.to, 0, 16);
    } else {
      std::memcpy(copy.to, copy.from, 16);
    }
    return true;
  });
}

unsigned ballot(unsigned mask, bool predicate) {
  Block& b = block();
  const unsigned me = 1u << lane();
  b.warp().predicates = predicate ? b.warp().predicates | me : b.warp().predicates & ~me;
  arrive_warp(b, mask);
  const unsigned result = b.warp().predicates & mask;
  arrive_warp(b, mask);
  return result;
}

namespace {

constexpr size_t kSharedBytesWithoutLeave = size_t{47} << 10;

struct Leave {
  std::mutex mutex;
  std::map<const void*, size_t> bytes;  // of dynamic shared memory, by kernel
};

Leave& leave_given() {
  static Leave& state = *new Leave;
  return state;
}

size_t most_shared_bytes(const void* kernel) {
  Leave& given = leave_given();
  const std::lock_guard lock(given.mutex);
  const auto it = given.bytes.find(kernel);
  return it == given.bytes.end() ? kSharedBytesWithoutLeave : it->second;
}

}  // namespace

cudaError_t run_grid(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
  const dim3 grid = config.gridDim, size = config.blockDim;
  const uint64_t threads = uint64_t{size.x} * size.y * size.z;
  if (threads == 0 || threads > 1024 || uint64_t{grid.x} * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535 ||
      size.z > 64 || config.dynamicSmemBytes > most_shared_bytes(kernel)) {
    return cudaErrorInvalidConfiguration;
  }
  enqueue([config, grid, thread = std::move(thread)] {
    const int64_t blocks = int64_t{grid.x} * grid.y * grid.z;
    const bool reverse = reverse_order();
#pragma omp parallel for schedule(dynamic) if (blocks > 1)
    for (int64_t i = 0; i < blocks; ++i) {
      const auto at = static_cast<uint64_t>(reverse ? blocks - 1 - i : i);
      run_block(dim3(static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                     static_cast<unsigned>(at / grid.x / grid.y)),
                config, thread, reverse);
    }
  });
  return cudaSuccess;
}

}  // namespace t6_emulation

// The runtime: one device, whose stream runs everything at once, and lazy streams beside it.

struct t6_emulated_stream {
  bool lazy = false;
  std::deque<std::function<void()>> pending;
  std::atomic<uint64_t> asked{0};  // how much was asked of it so far
  uint64_t done = 0;               // lazy: how much of that has run
  uint64_t behind_device = 0;      // lazy: how much of the device's work it waits for
};
struct t6_emulated_event {
  std::chrono::steady_clock::time_point at;
  t6_emulated_stream* stream = nullptr;  // null: never recorded
  uint64_t position = 0;                 // in its order
};
struct t6_emulated_graph {
  std::vector<std::function<void()>> work;
  std::map<void*, size_t> open;  // allocated in the capture and not freed in it so far
  std::vector<void*> freed;      // memory of the graph, kept as long as it may run
  size_t live = 0, peak = 0;     // bytes of `open`
  bool broken = false;           // by a call that a capture does not allow
  int holders = 1;
};

namespace {

struct Device {
  std::mutex mutex;
  std::map<void*, size_t> blocks;
  size_t used = 0;
  size_t captured = 0;                 // of that, what was allocated in captures
  size_t pool_high = 0;                // of the rest
  size_t graphs = 0, graphs_high = 0;  // as a driver holds it, which uses a graph's memory again within it
  t6_emulated_graph* capturing = nullptr;
};

Device& device() {
  static Device& state = *new Device;
  return state;
}

t6_emulated_stream& device_stream() {
  static t6_emulated_stream& stream = *new t6_emulated_stream;
  return stream;
}

void run_until(t6_emulated_stream& stream, uint64_t position) {
  while (stream.done < position && !stream.pending.empty()) {
    const std::function<void()> work = std::move(stream.pending.front());
    stream.pending.pop_front();
    ++stream.done;
    work();
  }
}

// T6_EMULATED_MEMORY sets the bytes the device has.
size_t total_memory() {
  static const size_t bytes = [] {
    const char* text = std::getenv("T6_EMULATED_MEMORY");
    return text != nullptr ? static_cast<size_t>(std::strtoull(text, nullptr, 10)) : size_t{8} << 30;
  }();
  return bytes;
}

void free_block(Device& d, void* data) {
  const auto it = d.blocks.find(data);
  if (it == d.blocks.end()) {
    std::fprintf(stderr, "emulated GPU: %p is freed but was never allocated\n", data);
    std::abort();
  }
  d.used -= it->second;
  d.blocks.erase(it);
  std::free(data);
}

void release(t6_emulated_graph* graph) {
  if (--graph->holders > 0) return;
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  for (void* data : graph->freed) {
    d.captured -= d.blocks[data];
    free_block(d, data);
  }
  delete graph;
}

[[noreturn]] void stop_capture(const char* what) {
  std::fprintf(stderr, "emulated GPU: %s\n", what);
  std::abort();
}

}  // namespace

void t6_emulation::enqueue_on(cudaStream_t stream, std::function<void()> work) {
  if (!stream->lazy || device().capturing != nullptr) {
    enqueue(std::move(work));
  } else {
    ++stream->asked;
    stream->pending.push_back(std::move(work));
  }
}

bool t6_emulation::follows_device(cudaStream_t stream) {
  return stream->behind_device == device_stream().asked;
}

void t6_emulation::enqueue(std::function<void()> work) {
  ++device_stream().asked;
  if (device().capturing != nullptr) {
    device().capturing->work.push_back(std::move(work));
  } else {
    work();
  }
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    default:
      return "cudaErrorInvalidValue";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  return cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
// T6_EMULATED_GPUS=0 hides the device, so that what takes a GPU when there is one computes on the CPU.
cudaError_t cudaGetDeviceCount(int* count) {
  const char* text = std::getenv("T6_EMULATED_GPUS");
  *count = text != nullptr ? std::atoi(text) : 1;
  return cudaSuccess;
}
// Device i of every process is the same one, as its number says; memory is each process's own.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {"emulated GPU", {}, 8, 0, 4, 1000, total_memory()};
  properties->uuid.bytes[0] = static_cast<char>(0xE0);
  properties->uuid.bytes[15] = static_cast<char>(device);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : static_cast<int>(t6::cuda::kMaxSharedBytes);
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
// Calls so far that make a host wait for a GPU.
static std::atomic<int> host_waits = 0;
extern "C" int t6_emulated_host_waits() {
  return host_waits;
}
cudaError_t cudaDeviceSynchronize() {
  ++host_waits;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = &device_stream();
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = new t6_emulated_stream;
  (*stream)->lazy = true;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -1;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  run_until(*stream, stream->asked);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->stream == nullptr) return cudaSuccess;
  if (event->stream->lazy) {
    run_until(*event->stream, event->position);
  } else {
    stream->behind_device = std::max(stream->behind_device, event->position);
  }
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ++host_waits;
  if (device().capturing != nullptr) {
    device().capturing->broken = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  run_until(*stream, stream->asked);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = device().capturing != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void*) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  if (attribute == cudaMemPoolAttrReservedMemHigh) d.pool_high = d.used - d.captured;
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void* value) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  *static_cast<uint64_t*>(value) = attribute == cudaMemPoolAttrReservedMemHigh ? d.pool_high : d.used - d.captured;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) {
  *static_cast<uint64_t*>(value) = device().graphs_high;
  return cudaSuccess;
}
cudaError_t cudaDeviceSetGraphMemAttribute(int, cudaGraphMemAttributeType, void*) {
  device().graphs_high = device().graphs;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = total_memory();
  *free = total_memory() - device().used;
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  if (d.used + bytes > total_memory()) return cudaErrorMemoryAllocation;
  // Not rounded up: the address sanitizer then sees the first byte behind.
  *data = nullptr;
  if (posix_memalign(data, 256, bytes) != 0) return cudaErrorMemoryAllocation;
  d.blocks[*data] = bytes;
  d.used += bytes;
  if (d.capturing == nullptr) {
    d.pool_high = std::max(d.pool_high, d.used - d.captured);
    return cudaSuccess;
  }
  d.captured += bytes;
  d.capturing->open[*data] = bytes;
  d.capturing->live += bytes;
  d.capturing->peak = std::max(d.capturing->peak, d.capturing->live);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  if (d.capturing != nullptr) {
    const auto it = d.capturing->open.find(data);
    if (it == d.capturing->open.end()) stop_capture("memory is freed in a capture that did not allocate it");
    d.capturing->live -= it->second;
    d.capturing->open.erase(it);
    d.capturing->freed.push_back(data);
    return d.capturing->broken ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
  }
  free_block(d, data);
  const char* fails = std::getenv("T6_EMULATED_FREE");
  return fails != nullptr && std::strcmp(fails, "fails") == 0 ? cudaErrorInvalidValue : cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  ++host_waits;
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  t6_emulation::enqueue_on(stream, [=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  t6_emulation::enqueue([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t) {
  if (width > pitch && height > 1) return cudaErrorInvalidValue;
  t6_emulation::enqueue([=] {
    for (size_t row = 0; row < height; ++row) std::memset(static_cast<char*>(to) + row * pitch, value, width);
  });
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (value > static_cast<int>(t6::cuda::kMaxSharedBytes)) return cudaErrorInvalidValue;
  t6_emulation::Leave& given = t6_emulation::leave_given();
  const std::lock_guard lock(given.mutex);
  given.bytes[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new t6_emulated_event{std::chrono::steady_clock::now()};
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->at = std::chrono::steady_clock::now();
  event->stream = stream;
  event->position = stream->asked;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ++host_waits;
  if (event->stream != nullptr && event->stream->lazy) run_until(*event->stream, event->position);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  device().capturing = new t6_emulated_graph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  t6_emulated_graph* captured = std::exchange(device().capturing, nullptr);
  if (captured->broken) {
    *graph = nullptr;
    for (const auto& [data, bytes] : captured->open) captured->freed.push_back(data);
    release(captured);
    return cudaErrorStreamCaptureInvalidated;
  }
  if (!captured->open.empty())
    stop_capture("memory is allocated in a capture and not freed in it: it cannot run twice");
  *graph = captured;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  ++graph->holders;
  *executable = graph;
  device().graphs += graph->peak;
  device().graphs_high = std::max(device().graphs_high, device().graphs);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (const auto& work : executable->work) work();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  release(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  release(executable);
  return cudaSuccess;
}
