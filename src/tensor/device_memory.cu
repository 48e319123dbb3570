#include "tensor/device_memory.h"

#include <map>
#include <mutex>
#include <type_traits>
#include <vector>

#include "tensor/cuda.h"
#include "tensor/gpu.h"
#include "tensor/pool_usage.h"

namespace t6::cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kGuardBytes = 256;  // in front of and behind every block, while poisoning
constexpr unsigned char kGuardPattern = 0xA7;

// Blocks framed by guards. The guards are the only state of the pool: memory itself is the driver's.
struct Guarded {
  std::mutex mutex;
  std::map<std::byte*, size_t> blocks;
  bool poison = false;
  bool damaged = false;
};

// Never destroyed: storages may outlive every static object.
Guarded& guarded() {
  static Guarded& state = *new Guarded;
  return state;
}

bool guard_intact(const std::byte* guard) {
  std::byte copy_of_guard[kGuardBytes];
  copy(copy_of_guard, kCpu, guard, Device{Device::Kind::cuda, 0}, kGuardBytes);
  for (const std::byte b : copy_of_guard) {
    if (b != std::byte{kGuardPattern}) return false;
  }
  return true;
}

bool intact(const std::byte* data, size_t bytes) {
  return guard_intact(data - kGuardBytes) && guard_intact(data + bytes);
}

void* allocate_from_driver(size_t bytes) {
  void* block = nullptr;
  cudaError_t status = cudaMallocAsync(&block, bytes, current_stream());
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // not sticky
    gpu::release_cached();
    status = cudaMallocAsync(&block, bytes, current_stream());
  }
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    throw gpu::OutOfMemory(bytes, gpu::memory());
  }
  T6_CUDA(status);
  return block;
}

template <class To, class From>
__global__ void __launch_bounds__(kThreads) convert_kernel(To* to, const From* from, int64_t n) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    store(to[i], static_cast<Accumulate<To>>(static_cast<Accumulate<From>>(from[i])));
  }
}

template <class To, class From>
__global__ void __launch_bounds__(kThreads) add_kernel(To* to, const From* from, int64_t n) {
  using Sum = Accumulate<To>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    store(to[i], static_cast<Sum>(to[i]) + static_cast<Sum>(static_cast<Accumulate<From>>(from[i])));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T* to, T value, int64_t n) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) to[i] = value;
}

// Calls f(To{}, From{}).
template <class F>
void dispatch_pair(DType to, DType from, F&& f) {
  dispatch_float(to, [&]<class To>(To) { dispatch_float(from, [&]<class From>(From) { f(To{}, From{}); }); });
}

}  // namespace

std::byte* allocate(size_t bytes, int device) {
  T6_CHECK(gpu::count() > 0, "[storage] no memory on {}: {}", to_string(Device{Device::Kind::cuda, device}),
           gpu::why_none());
  Guarded& state = guarded();
  const std::lock_guard lock(state.mutex);
  if (!state.poison) {
    auto* data = static_cast<std::byte*>(allocate_from_driver(std::max<size_t>(bytes, 1)));
    pool_usage().add(bytes);
    return data;
  }
  auto* block = static_cast<std::byte*>(allocate_from_driver(bytes + 2 * kGuardBytes));
  std::byte* data = block + kGuardBytes;
  T6_CUDA(cudaMemsetAsync(block, kGuardPattern, kGuardBytes, current_stream()));
  T6_CUDA(cudaMemsetAsync(data, 0xFF, bytes, current_stream()));
  T6_CUDA(cudaMemsetAsync(data + bytes, kGuardPattern, kGuardBytes, current_stream()));
  state.blocks[data] = bytes;
  pool_usage().add(bytes);
  return data;
}

// A failure is kept for the next call that can report it: a destructor cannot.
void free(std::byte* data, size_t bytes) noexcept {
  Guarded& state = guarded();
  const std::lock_guard lock(state.mutex);
  std::byte* block = data;
  if (const auto it = state.blocks.find(data); it != state.blocks.end()) {
    try {
      state.damaged = state.damaged || !intact(data, bytes);
    } catch (const Error&) {
      state.damaged = true;
    }
    state.blocks.erase(it);
    block -= kGuardBytes;
  }
  pool_usage().remove(bytes);
  if (const cudaError_t status = cudaFreeAsync(block, current_stream()); status != cudaSuccess) {
    keep_failure("cudaFreeAsync", status);
  }
}

void set_poison(bool on) {
  Guarded& state = guarded();
  const std::lock_guard lock(state.mutex);
  state.poison = on;  // blocks that were framed before stay so until they are freed
  state.damaged = false;
}

bool guards_intact() {
  Guarded& state = guarded();
  const std::lock_guard lock(state.mutex);
  bool good = !state.damaged;
  state.damaged = false;
  for (const auto& [data, bytes] : state.blocks) good = intact(data, bytes) && good;
  return good;
}

void copy(void* to, Device to_device, const void* from, Device from_device, size_t bytes) {
  if (bytes == 0) return;
  const cudaMemcpyKind kind = to_device.is_cpu()     ? cudaMemcpyDeviceToHost
                              : from_device.is_cpu() ? cudaMemcpyHostToDevice
                                                     : cudaMemcpyDeviceToDevice;
  T6_CUDA(cudaMemcpyAsync(to, from, bytes, kind, current_stream()));
  if (kind != cudaMemcpyDeviceToDevice) T6_CUDA(cudaStreamSynchronize(current_stream()));
}

void convert(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n) {
  if (n == 0) return;
  dispatch_pair(to_dtype, from_dtype, [&]<class To, class From>(To, From) {
    launch(&convert_kernel<To, From>, {blocks_for_loop(n, kThreads), kThreads}, static_cast<To*>(to),
           static_cast<const From*>(from), n);
  });
}

void add(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n) {
  if (n == 0) return;
  dispatch_pair(to_dtype, from_dtype, [&]<class To, class From>(To, From) {
    launch(&add_kernel<To, From>, {blocks_for_loop(n, kThreads), kThreads}, static_cast<To*>(to),
           static_cast<const From*>(from), n);
  });
}

void fill(void* to, DType dtype, double value, int64_t n) {
  if (n == 0) return;
  if (value == 0) {
    T6_CUDA(cudaMemsetAsync(to, 0, static_cast<size_t>(n) * size_of(dtype), current_stream()));
    return;
  }
  const LaunchShape shape{blocks_for_loop(n, kThreads), kThreads};
  if (dtype == DType::i32) {
    launch(&fill_kernel<int32_t>, shape, static_cast<int32_t*>(to), static_cast<int32_t>(value), n);
    return;
  }
  dispatch_float(dtype, [&]<class T>(T) {
    launch(&fill_kernel<T>, shape, static_cast<T*>(to), static_cast<T>(static_cast<Accumulate<T>>(value)), n);
  });
}

}  // namespace t6::cuda
