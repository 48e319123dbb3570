#include "tensor/gpu.h"

#include <nvtx3/nvToolsExt.h>
#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "base/format.h"
#include "tensor/cuda.h"
#include "tensor/gpu_identity.h"
#include "tensor/pool_usage.h"

namespace t6 {
namespace cuda {
namespace {

// The one device this process computes on, and its stream.
struct Current {
  std::mutex mutex;
  int device = 0;
  cudaStream_t stream = nullptr;
  int multiprocessors = 1;
  int shared_bytes = 0;  // most a block can have
};

Current& current() {
  static Current& state = *new Current;  // never destroyed: storages are freed on its stream until the very end
  return state;
}

// Work of the device waits for nothing but its own stream; freed memory is kept for reuse.
void open_device(Current& state) {
  T6_CUDA(cudaSetDevice(state.device));
  T6_CUDA(cudaStreamCreateWithFlags(&state.stream, cudaStreamNonBlocking));
  T6_CUDA(cudaDeviceGetAttribute(&state.multiprocessors, cudaDevAttrMultiProcessorCount, state.device));
  T6_CUDA(cudaDeviceGetAttribute(&state.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, state.device));
  cudaMemPool_t pool = nullptr;
  T6_CUDA(cudaDeviceGetDefaultMemPool(&pool, state.device));
  uint64_t keep = std::numeric_limits<uint64_t>::max();
  T6_CUDA(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
}

}  // namespace

cudaStream_t current_stream() {
  Current& state = current();
  thread_local int device_of_thread = -1;
  if (state.stream == nullptr) {
    const std::lock_guard lock(state.mutex);
    if (state.stream == nullptr) open_device(state);
  }
  if (device_of_thread != state.device) {
    T6_CUDA(cudaSetDevice(state.device));
    device_of_thread = state.device;
  }
  return state.stream;
}

unsigned blocks_for_loop(int64_t n, int64_t per_block) {
  current_stream();
  constexpr int64_t kBlocksPerMultiprocessor = 8;
  return static_cast<unsigned>(
      std::min<int64_t>(blocks_for(n, per_block), current().multiprocessors * kBlocksPerMultiprocessor));
}

namespace {

struct KeptFailure {
  std::atomic<bool> any = false;
  std::mutex mutex;
  const char* call = "";
  cudaError_t status = cudaSuccess;
};

KeptFailure& kept_failure() {
  static KeptFailure& kept = *new KeptFailure;  // never destroyed: storages are freed until the very end
  return kept;
}

}  // namespace

void keep_failure(const char* call, cudaError_t status) noexcept {
  KeptFailure& kept = kept_failure();
  const std::lock_guard lock(kept.mutex);
  if (kept.any) return;
  kept.call = call;
  kept.status = status;
  kept.any = true;
}

void drop_kept_failure() noexcept {
  kept_failure().any = false;
}

void report_kept_failure(const char* before) {
  KeptFailure& kept = kept_failure();
  if (!kept.any.load(std::memory_order_relaxed) || !kept.any.exchange(false)) return;
  const std::lock_guard lock(kept.mutex);
  fail(ExitCode::internal, "{}, some time before {}: {} ({})", kept.call, before, cudaGetErrorName(kept.status),
       cudaGetErrorString(kept.status));
}

size_t max_shared_bytes() {
  current_stream();
  return static_cast<size_t>(current().shared_bytes);
}

PoolUsage& pool_usage() {
  static PoolUsage usage;
  return usage;
}

}  // namespace cuda

namespace gpu {
namespace {

using cuda::current_stream;

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

struct Found {
  int count = 0;
  std::string why_none;
};

const Found& found() {
  static const Found result = [] {
    Found f;
    const cudaError_t status = cudaGetDeviceCount(&f.count);
    if (status == cudaErrorInsufficientDriver) {
      f.why_none = "no CUDA driver was found, or it is older than this program";
    } else if (status != cudaSuccess) {
      f.why_none = std::string("no CUDA device can be used: ") + cudaGetErrorString(status);
    } else if (f.count == 0) {
      f.why_none = "no CUDA device was found";
    }
    if (status != cudaSuccess) {
      f.count = 0;
      static_cast<void>(cudaGetLastError());
    }
    return f;
  }();
  return result;
}

}  // namespace

int count() {
  return found().count;
}

std::string why_none() {
  return found().why_none;
}

Info info(int index) {
  cudaDeviceProp properties{};
  T6_CUDA(cudaGetDeviceProperties(&properties, index));
  int driver = 0, runtime = 0;
  T6_CUDA(cudaDriverGetVersion(&driver));
  T6_CUDA(cudaRuntimeGetVersion(&runtime));
  return {.name = properties.name,
          .compute_capability = properties.major * 10 + properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .memory_bytes = properties.totalGlobalMem,
          .driver = version_text(driver),
          .runtime = version_text(runtime)};
}

std::string identity(int index) {
  cudaDeviceProp properties{};
  T6_CUDA(cudaGetDeviceProperties(&properties, index));
  std::string digits;
  for (const char byte : properties.uuid.bytes) digits += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return digits.find_first_not_of('0') == std::string::npos ? "" : "GPU-" + digits;
}

void use(int index) {
  T6_CHECK(index >= 0 && index < count(), "[gpu] expected a device in [0, {}), got {}", count(), index);
  cuda::Current& state = cuda::current();
  const std::lock_guard lock(state.mutex);
  if (state.stream != nullptr && state.device == index) return;
  T6_CHECK(state.stream == nullptr, "[gpu] device {} is in use already; a process computes on one device",
           state.device);
  state.device = index;
  cuda::open_device(state);
}

namespace {

cudaMemPool_t memory_pool() {
  cudaMemPool_t pool = nullptr;
  T6_CUDA(cudaDeviceGetDefaultMemPool(&pool, cuda::current().device));
  return pool;
}

}  // namespace

Memory memory() {
  current_stream();
  Memory m;
  m.in_use = cuda::pool_usage().in_use;
  m.peak = cuda::pool_usage().peak;
  uint64_t held = 0, pool_peak = 0, graphs_peak = 0;
  T6_CUDA(cudaMemPoolGetAttribute(memory_pool(), cudaMemPoolAttrReservedMemCurrent, &held));
  T6_CUDA(cudaMemPoolGetAttribute(memory_pool(), cudaMemPoolAttrReservedMemHigh, &pool_peak));
  T6_CUDA(cudaDeviceGetGraphMemAttribute(cuda::current().device, cudaGraphMemAttrReservedMemHigh, &graphs_peak));
  m.held = held;
  m.reserved_peak = pool_peak + graphs_peak;
  T6_CUDA(cudaMemGetInfo(&m.free, &m.total));
  return m;
}

size_t peak_bytes() {
  return cuda::pool_usage().peak;
}

void reset_peak() {
  cuda::pool_usage().peak = cuda::pool_usage().in_use;
  current_stream();
  uint64_t zero = 0;  // the one value they take: from here on
  T6_CUDA(cudaMemPoolSetAttribute(memory_pool(), cudaMemPoolAttrReservedMemHigh, &zero));
  T6_CUDA(cudaDeviceSetGraphMemAttribute(cuda::current().device, cudaGraphMemAttrReservedMemHigh, &zero));
}

void release_cached() {
  synchronize();
  T6_CUDA(cudaMemPoolTrimTo(memory_pool(), 0));
}

void synchronize() {
  T6_CUDA(cudaStreamSynchronize(current_stream()));
}

struct Event::Impl {
  cudaEvent_t event = nullptr;
  ~Impl() { static_cast<void>(cudaEventDestroy(event)); }
};

Event::Event() : impl_(std::make_unique<Impl>()) {
  current_stream();
  T6_CUDA(cudaEventCreate(&impl_->event));
}
Event::~Event() = default;
Event::Event(Event&&) noexcept = default;
Event& Event::operator=(Event&&) noexcept = default;

void Event::record() {
  T6_CUDA(cudaEventRecord(impl_->event, current_stream()));
}

void Event::wait() const {
  T6_CUDA(cudaEventSynchronize(impl_->event));
}

double Event::milliseconds_since(const Event& start) const {
  wait();
  float milliseconds = 0;
  T6_CUDA(cudaEventElapsedTime(&milliseconds, start.impl_->event, impl_->event));
  return static_cast<double>(milliseconds);
}

Range::Range(const char* name) {
  nvtxRangePushA(name);
}

Range::~Range() {
  nvtxRangePop();
}

namespace {

class EventClock : public profile::DeviceClock {
 public:
  int mark() override {
    if (used_ == events_.size()) events_.emplace_back();
    events_[used_].record();
    return static_cast<int>(used_++);
  }
  double seconds(int from, int to) override {
    return events_[static_cast<size_t>(to)].milliseconds_since(events_[static_cast<size_t>(from)]) / 1e3;
  }
  void forget() override { used_ = 0; }

 private:
  std::vector<Event> events_;
  size_t used_ = 0;
};

}  // namespace

profile::DeviceClock& clock() {
  static EventClock& clock = *new EventClock;  // never destroyed, as the driver may be gone before it
  return clock;
}

HostBuffer::HostBuffer(size_t bytes) : bytes_(bytes) {
  current_stream();
  void* data = nullptr;
  T6_CUDA(cudaMallocHost(&data, std::max<size_t>(bytes, 1)));
  data_ = static_cast<std::byte*>(data);
}

HostBuffer::~HostBuffer() {
  static_cast<void>(cudaFreeHost(data_));
}

void copy_to_device(void* device, const HostBuffer& host, size_t bytes) {
  T6_CHECK(bytes <= host.bytes(), "[gpu] {} bytes do not lie in a buffer of {}", bytes, host.bytes());
  T6_CUDA(cudaMemcpyAsync(device, host.data(), bytes, cudaMemcpyHostToDevice, current_stream()));
}

void copy_to_host(const HostBuffer& host, const void* device, size_t bytes) {
  T6_CHECK(bytes <= host.bytes(), "[gpu] {} bytes do not fit in a buffer of {}", bytes, host.bytes());
  T6_CUDA(cudaMemcpyAsync(host.data(), device, bytes, cudaMemcpyDeviceToHost, current_stream()));
}

struct Stream::Impl {
  cudaStream_t stream = nullptr;
  cudaEvent_t done = nullptr;
  ~Impl() {
    if (done != nullptr) static_cast<void>(cudaEventDestroy(done));
    if (stream != nullptr) static_cast<void>(cudaStreamDestroy(stream));
  }
};

// Of the highest priority: what waits for other ranks begins as soon as it can, beside kernels that fill the device.
Stream::Stream() : impl_(std::make_unique<Impl>()) {
  current_stream();
  int least = 0, greatest = 0;
  T6_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  T6_CUDA(cudaStreamCreateWithPriority(&impl_->stream, cudaStreamNonBlocking, greatest));
  T6_CUDA(cudaEventCreateWithFlags(&impl_->done, cudaEventDisableTiming));
}
Stream::~Stream() = default;

void Stream::follow(const Event& point) {
  current_stream();
  T6_CUDA(cudaStreamWaitEvent(impl_->stream, point.impl_->event, 0));
}

void Stream::lead() const {
  const cudaStream_t device = current_stream();
  T6_CUDA(cudaEventRecord(impl_->done, impl_->stream));
  T6_CUDA(cudaStreamWaitEvent(device, impl_->done, 0));
}

void Stream::wait() const {
  current_stream();
  T6_CUDA(cudaStreamSynchronize(impl_->stream));
}

void Stream::copy_to_device(void* device, const HostBuffer& host, size_t bytes) {
  current_stream();
  T6_CHECK(bytes <= host.bytes(), "[gpu] {} bytes do not lie in a buffer of {}", bytes, host.bytes());
  T6_CUDA(cudaMemcpyAsync(device, host.data(), bytes, cudaMemcpyHostToDevice, impl_->stream));
}

void Stream::copy_to_host(const HostBuffer& host, const void* device, size_t bytes) {
  current_stream();
  T6_CHECK(bytes <= host.bytes(), "[gpu] {} bytes do not fit in a buffer of {}", bytes, host.bytes());
  T6_CUDA(cudaMemcpyAsync(host.data(), device, bytes, cudaMemcpyDeviceToHost, impl_->stream));
}

void* Stream::handle() const {
  return impl_->stream;
}

struct Graph::Impl {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ~Impl() {
    if (executable != nullptr) static_cast<void>(cudaGraphExecDestroy(executable));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  }
};

namespace {

// A graph's memory is taken when it is made or first run, not while it is captured.
void require_memory(cudaError_t status) {
  if (status != cudaErrorMemoryAllocation) return;
  static_cast<void>(cudaGetLastError());
  throw OutOfMemory(cuda::pool_usage().peak, memory());
}

}  // namespace

Graph::Graph() = default;
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;

void Graph::capture(const std::function<void()>& work) {
  auto captured = std::make_unique<Impl>();
  T6_CUDA(cudaStreamBeginCapture(current_stream(), cudaStreamCaptureModeThreadLocal));
  try {
    work();
  } catch (...) {
    cudaGraph_t broken = nullptr;
    static_cast<void>(cudaStreamEndCapture(current_stream(), &broken));
    if (broken != nullptr) static_cast<void>(cudaGraphDestroy(broken));
    static_cast<void>(cudaGetLastError());
    cuda::drop_kept_failure();  // what was freed while the capture broke
    throw;
  }
  T6_CUDA(cudaStreamEndCapture(current_stream(), &captured->graph));
  const cudaError_t made = cudaGraphInstantiate(&captured->executable, captured->graph, 0);
  require_memory(made);
  T6_CUDA(made);
  impl_ = std::move(captured);
}

bool Graph::captured() const {
  return impl_ != nullptr;
}

void Graph::launch() {
  T6_CHECK(captured(), "[gpu] a graph is launched before it was captured");
  const cudaError_t launched = cudaGraphLaunch(impl_->executable, current_stream());
  require_memory(launched);
  T6_CUDA(launched);
}

}  // namespace gpu
}  // namespace t6
