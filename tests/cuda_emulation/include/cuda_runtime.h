// Stands in for the CUDA runtime's header where the .cu files are compiled as C++ for an emulated device.
//
// Kernels run on the CPU, block by block, every thread of a block as a fiber of its own. Barriers and warp operations
// switch fibers, so the arithmetic, the indexing and the synchronisation of a kernel are those of the GPU; its timing,
// its memory model and its tensor cores are not. A barrier that some threads of the block never reach, a warp operation
// with lanes that have exited, a pack off its alignment, or a launch beyond the limits of sm_80 stops the program with
// a message; the sanitizers see every access.
//
// Only what this project uses is here.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define T6_CUDA_EMULATION 1

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// A block runs on one thread of the host.
#define __shared__ thread_local

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
inline constexpr int warpSize = 32;

// Vector types.
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

// Synchronisation and warp operations.
namespace t6_emulation {
void block_barrier();
void warp_barrier(unsigned mask);
// Every lane of `mask` gives a value and gets that of lane `source` (its own where source is no lane of the mask).
uint64_t exchange(unsigned mask, uint64_t value, int source);
// Every lane of a whole warp gives `bytes` bytes (64 at most) and gets those of all 32, lane by lane.
void gather(const void* mine, size_t bytes, void* all);
// A copy of 16 bytes (zeros where `zero`) that is not there before this thread's finish_copies(): NaN is.
void begin_copy(void* to, const void* from, bool zero);
// Makes one group of the copies begun since the last one.
void end_copy_group();
// All groups but the last `later_groups`; with 0 also what is in no group.
void finish_copies(int later_groups);
// One bit a lane of the mask whose predicate holds.
unsigned ballot(unsigned mask, bool predicate);
int lane();
// Stops the program when an address is no multiple of `bytes`.
void require_aligned(const void* at, size_t bytes);

template <class T>
T exchange_as(unsigned mask, T value, int source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace t6_emulation

inline void __syncthreads() {
  t6_emulation::block_barrier();
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  t6_emulation::warp_barrier(mask);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = t6_emulation::lane();
  return t6_emulation::exchange_as(mask, value, lane / width * width + source % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
  const int lane = t6_emulation::lane(), source = lane ^ flip;
  return t6_emulation::exchange_as(mask, value, source / width == lane / width ? source : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = t6_emulation::lane(), source = lane + static_cast<int>(delta);
  return t6_emulation::exchange_as(mask, value, source / width == lane / width ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = t6_emulation::lane(), source = lane - static_cast<int>(delta);
  return t6_emulation::exchange_as(mask, value, source >= lane / width * width ? source : lane);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  return t6_emulation::ballot(mask, predicate);
}
inline bool __any_sync(unsigned mask, bool predicate) {
  return t6_emulation::ballot(mask, predicate) != 0;
}
inline bool __all_sync(unsigned mask, bool predicate) {
  return t6_emulation::ballot(mask, predicate) == mask;
}

inline void __threadfence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}
inline void __threadfence_block() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

template <class T, class Change>
T t6_atomic(T* at, Change&& change) {
  std::atomic_ref<T> cell(*at);
  T old = cell.load();
  while (!cell.compare_exchange_weak(old, change(old))) {
  }
  return old;
}
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return t6_atomic(at, [value](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return t6_atomic(at, [value](T old) { return std::max(old, value); });
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  return t6_atomic(at, [value](T old) { return static_cast<T>(old | value); });
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return t6_atomic(at, [value](T) { return value; });
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  std::atomic_ref<T>(*at).compare_exchange_strong(expected, value);
  return expected;
}

// Device functions of the CUDA mathematics library that the standard one lacks.
template <class T>
T __ldg(const T* p) {
  return *p;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __fdividef(float x, float y) {
  return x / y;
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __ffs(int x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1;
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
using std::max;
using std::min;

// The runtime.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaMemPoolAttr {
  cudaMemPoolAttrReleaseThreshold = 4,
  cudaMemPoolAttrReservedMemCurrent = 5,
  cudaMemPoolAttrReservedMemHigh = 6,
};
enum cudaGraphMemAttributeType { cudaGraphMemAttrReservedMemHigh = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDisableTiming = 2;

using cudaStream_t = struct t6_emulated_stream*;
using cudaEvent_t = struct t6_emulated_event*;
using cudaGraph_t = struct t6_emulated_graph*;
using cudaGraphExec_t = struct t6_emulated_graph*;
using cudaMemPool_t = struct t6_emulated_pool*;

struct cudaUUID_t {
  char bytes[16];
};
struct cudaDeviceProp {
  char name[256];
  cudaUUID_t uuid;
  int major, minor, multiProcessorCount, clockRate;
  size_t totalGlobalMem;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
// A stream with a priority is lazy: what is asked of it runs when somebody waits for it, and no sooner. So a wait that
// is missing shows.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes);
cudaError_t cudaDeviceGetGraphMemAttribute(int device, cudaGraphMemAttributeType attribute, void* value);
cudaError_t cudaDeviceSetGraphMemAttribute(int device, cudaGraphMemAttributeType attribute, void* value);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream);
// While the stream is captured it stops the program for memory that the capture did not allocate; cudaStreamEndCapture
// does for memory that was allocated in the capture and not freed. T6_EMULATED_FREE=fails: it reports an error.
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

namespace t6_emulation {
// Runs `work` now or, while the stream is captured, adds it to the graph.
void enqueue(std::function<void()> work);
// The same on a stream that may be lazy.
void enqueue_on(cudaStream_t stream, std::function<void()> work);
// Whether a lazy stream waits for all that was asked of the device so far.
bool follows_device(cudaStream_t stream);
// Runs `thread` once for every thread of the grid. An error beyond the limits; of the 48 KiB of shared memory that a
// kernel has without cudaFuncSetAttribute the last is set aside for what it has of its own, which is not known here.
cudaError_t run_grid(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
}  // namespace t6_emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return t6_emulation::run_grid(
      *config, reinterpret_cast<const void*>(kernel),
      [kernel, values = std::tuple<Parameters...>(arguments...)] { std::apply(kernel, values); });
}
