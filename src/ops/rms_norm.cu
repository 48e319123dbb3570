// A row is read once and kept in registers: 32 numbers a thread, so one warp holds rows of up to 1024 columns, two
// warps 2048 and so on to 8192; other widths take the kernels named "any". All numbers of a row are asked for before
// the first is used, some 5 KB a warp, which is several times what the memory's latency asks of each multiprocessor.
// There are no more than 20 arithmetic instructions a 16-byte piece, so that a row costs its bytes alone:
//
//   forward, f32 stream and bf16 branch: 4 + 2 read, 4 + 2 written = 12 bytes a number (6 without the addition)
//   backward:                        4 + 2 + 4 read, 4 + 2 written = 16 bytes a number
#include <algorithm>
#include <memory>

#include "ops/pack.cuh"
#include "ops/reduce.cuh"
#include "ops/rms_norm.h"
#include "tensor/storage.h"

namespace t6::cuda {
namespace {

constexpr int kHeld = 32;         // numbers of a row that a thread keeps
constexpr int kHeldBeside = 16;   // the same where it keeps as many sums of the weight's gradient
constexpr int kRowsPerBlock = 4;  // where a row is one warp's
constexpr int kMaxThreads = 256;
constexpr int kSlots = 2048;  // rows worked on at once where the gradient of the weight is taken along
constexpr int kSlotsAnyWidth = 64;

// Which part of which row a thread works on. Piece i of its row is number lane + i * lanes of N numbers each.
struct Place {
  int lane, lanes, slot, slots;  // slots: rows the whole grid works on at once

  __device__ explicit Place(int warps) : lanes(warps * kWarp) {
    const int rows_here = static_cast<int>(blockDim.x) / lanes, row_here = static_cast<int>(threadIdx.x) / lanes;
    lane = static_cast<int>(threadIdx.x) % lanes;
    slot = static_cast<int>(blockIdx.x) * rows_here + row_here;
    slots = static_cast<int>(gridDim.x) * rows_here;
  }
  template <int N>
  __device__ int column(int i) const {
    return (lane + i * lanes) * N;
  }
};

// A thread's pieces of a row, zeros behind its end or where there is no row.
template <class T, int N, int kNumbers>
struct Held {
  Pack<T, N> packs[kNumbers / N];

  __device__ Held(const T* row, const Place& place, int width) {
#pragma unroll
    for (int i = 0; i < kNumbers / N; ++i) {
      const int column = place.template column<N>(i);
      packs[i] = {};
      if (row != nullptr && column < width) packs[i] = load_pack<N>(row + column);
    }
  }
  __device__ float at(int i, int j) const {
    return number(packs[i], j);
  }
};

template <class T>
__device__ const T* row_of(const void* data, int64_t row, int64_t width) {
  return data != nullptr ? static_cast<const T*>(data) + row * width : nullptr;
}

template <int N, class T>
__device__ void weights_at(const T* weight, int column, float (&w)[N]) {
  if (weight != nullptr) {
    load_floats(weight + column, w);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) w[j] = 1.0f;
  }
}

template <class X, class Y>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_forward_kernel(RmsNormForwardArgs a, int warps) {
  constexpr int N = kPackOf<X>;
  const Place place(warps);
  if (place.slot >= a.rows) return;
  const int64_t row = place.slot;
  const int width = static_cast<int>(a.width);
  const Held<X, N, kHeld> x(row_of<X>(a.x, row, width), place, width);
  const Held<Y, N, kHeld> addend(row_of<Y>(a.addend, row, width), place, width);

  float v[kHeld / N][N], squares = 0;
#pragma unroll
  for (int i = 0; i < kHeld / N; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) v[i][j] = static_cast<float>(static_cast<X>(x.at(i, j) + addend.at(i, j)));
#pragma unroll
    for (int j = 0; j < N; ++j) squares += v[i][j] * v[i][j];
  }
  if (a.sum != nullptr) {
    X* sum = static_cast<X*>(a.sum) + row * width;
#pragma unroll
    for (int i = 0; i < kHeld / N; ++i) {
      const int column = place.column<N>(i);
      if (column < width) store_floats(sum + column, v[i]);
    }
  }
  squares = block_sum_of(squares, warps);
  const float r = 1.0f / sqrtf(squares / static_cast<float>(width) + static_cast<float>(a.eps));
  if (place.lane == 0) static_cast<float*>(a.rstd)[row] = r;

  Y* y = static_cast<Y*>(a.y) + row * width;
#pragma unroll
  for (int i = 0; i < kHeld / N; ++i) {
    const int column = place.column<N>(i);
    if (column >= width) continue;
    float w[N];
    weights_at(static_cast<const Y*>(a.weight), column, w);
#pragma unroll
    for (int j = 0; j < N; ++j) v[i][j] *= r * w[j];
    store_floats(y + column, v[i]);
  }
}

// With `partial` [slots, width]: the gradient of the weight over the rows of each slot, taken along.
template <class X, class Y, bool kPartial>
__global__ void __launch_bounds__(kMaxThreads)
    rms_norm_backward_kernel(RmsNormBackwardArgs a, int warps, float* partial) {
  constexpr int N = kPackOf<X>, kNumbers = kPartial ? kHeldBeside : kHeld;
  const Place place(warps);
  const int width = static_cast<int>(a.width);
  float dw[kNumbers / N][N] = {};
  for (int64_t row = place.slot; row < a.rows; row += place.slots) {
    const Held<X, N, kNumbers> x(row_of<X>(a.x, row, width), place, width);
    const Held<Y, N, kNumbers> dy(row_of<Y>(a.dy, row, width), place, width);
    const Held<X, N, kNumbers> dsum(row_of<X>(a.dsum, row, width), place, width);
    const float r = static_cast<const float*>(a.rstd)[row];

    float dot = 0;
#pragma unroll
    for (int i = 0; i < kNumbers / N; ++i) {
      const int column = place.column<N>(i);
      if (column >= width) continue;
      float w[N];
      weights_at(static_cast<const Y*>(a.weight), column, w);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        dot += dy.at(i, j) * w[j] * x.at(i, j);
        if constexpr (kPartial) dw[i][j] += dy.at(i, j) * x.at(i, j) * r;
      }
    }
    const float slope = r * r * block_sum_of(dot, warps) / static_cast<float>(width);

    X* dx = static_cast<X*>(a.dx) + row * width;
#pragma unroll
    for (int i = 0; i < kNumbers / N; ++i) {
      const int column = place.column<N>(i);
      if (column >= width) continue;
      float w[N], d[N];
      weights_at(static_cast<const Y*>(a.weight), column, w);
#pragma unroll
      for (int j = 0; j < N; ++j) d[j] = dsum.at(i, j) + r * (dy.at(i, j) * w[j] - x.at(i, j) * slope);
      store_floats(dx + column, d);
      if (a.daddend != nullptr) store_floats(static_cast<Y*>(a.daddend) + row * width + column, d);
    }
  }
  if constexpr (kPartial) {
#pragma unroll
    for (int i = 0; i < kNumbers / N; ++i) {
      const int column = place.column<N>(i);
      if (column < width) store_floats(partial + static_cast<int64_t>(place.slot) * width + column, dw[i]);
    }
  }
}

constexpr int kThreads = 256;

// Any width: one block a row, which it reads twice.
template <class X, class Y>
__global__ void __launch_bounds__(kThreads) rms_norm_forward_any_kernel(RmsNormForwardArgs a) {
  const int64_t row = blockIdx.x;
  const X* x = row_of<X>(a.x, row, a.width);
  const Y* addend = row_of<Y>(a.addend, row, a.width);
  const Y* weight = static_cast<const Y*>(a.weight);
  X* sum = a.sum != nullptr ? static_cast<X*>(a.sum) + row * a.width : nullptr;
  Y* y = static_cast<Y*>(a.y) + row * a.width;

  float squares = 0;
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) {
    float value = static_cast<float>(x[i]);
    if (addend != nullptr) {
      sum[i] = static_cast<X>(value + static_cast<float>(addend[i]));
      value = static_cast<float>(sum[i]);
    }
    squares += value * value;
  }
  squares = block_sum<kThreads>(squares);
  const float r = 1.0f / sqrtf(squares / static_cast<float>(a.width) + static_cast<float>(a.eps));
  if (threadIdx.x == 0) static_cast<float*>(a.rstd)[row] = r;
  const X* normed = addend != nullptr ? sum : x;  // each thread reads back what it wrote
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) {
    const float w = weight != nullptr ? static_cast<float>(weight[i]) : 1.0f;
    y[i] = static_cast<Y>(static_cast<float>(normed[i]) * r * w);
  }
}

template <class X, class Y>
__global__ void __launch_bounds__(kThreads) rms_norm_backward_any_kernel(RmsNormBackwardArgs a) {
  const int64_t row = blockIdx.x;
  const X* x = row_of<X>(a.x, row, a.width);
  const Y* weight = static_cast<const Y*>(a.weight);
  const Y* dy = row_of<Y>(a.dy, row, a.width);
  const X* dsum = row_of<X>(a.dsum, row, a.width);
  X* dx = static_cast<X*>(a.dx) + row * a.width;
  Y* daddend = a.daddend != nullptr ? static_cast<Y*>(a.daddend) + row * a.width : nullptr;
  const float r = static_cast<const float*>(a.rstd)[row];

  auto g = [&](int64_t i) {
    const float w = weight != nullptr ? static_cast<float>(weight[i]) : 1.0f;
    return dy != nullptr ? static_cast<float>(dy[i]) * w : 0.0f;
  };
  float dot = 0;
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) dot += g(i) * static_cast<float>(x[i]);
  const float slope = r * r * block_sum<kThreads>(dot) / static_cast<float>(a.width);
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) {
    const float through = dsum != nullptr ? static_cast<float>(dsum[i]) : 0.0f;
    const float d = through + r * (g(i) - static_cast<float>(x[i]) * slope);
    dx[i] = static_cast<X>(d);
    if (daddend != nullptr) daddend[i] = static_cast<Y>(d);
  }
}

// partial [gridDim.y, width]: slot s takes rows s, s + gridDim.y, ...; a thread a column.
template <class X, class Y>
__global__ void __launch_bounds__(kThreads) rms_norm_partial_weight_any_kernel(RmsNormBackwardArgs a, float* partial) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= a.width) return;
  float sum = 0;
  for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    sum += static_cast<float>(row_of<Y>(a.dy, row, a.width)[column]) *
           static_cast<float>(row_of<X>(a.x, row, a.width)[column]) * static_cast<const float*>(a.rstd)[row];
  }
  partial[blockIdx.y * a.width + column] = sum;
}

// dweight [width] += the sum of partial [slots, width] over its rows: a block for 32 columns, a warp for every 32nd
// row, and the sums of the warps in order.
__global__ void __launch_bounds__(1024)
    rms_norm_weight_kernel(const float* partial, int slots, int64_t width, float* dweight) {
  __shared__ float sums[kWarp][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int slot = warp; slot < slots; slot += kWarp) sum += partial[slot * width + column];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
  for (int i = 1; i < kWarp; ++i) sum += sums[i][lane];
  dweight[column] += sum;
}

// Calls f(X{}, Y{}) for the pairs of dtypes that run on a GPU; f64 is for checks on the CPU.
template <class F>
void dispatch(const char* op, DType x, DType y, F&& f) {
  T6_CHECK(x != DType::f64, "{}: f64 is not built for cuda", op);
  if (x == DType::bf16) {
    f(bfloat16{}, bfloat16{});
  } else if (y == DType::bf16) {
    f(float{}, bfloat16{});
  } else {
    f(float{}, float{});
  }
}

// Warps a row; 0 where the row is not held in registers.
int warps_for(int64_t width, int64_t held, DType x, bool aligned) {
  const bool whole_packs = width % (16 / static_cast<int64_t>(size_of(x))) == 0;
  if (!aligned || !whole_packs || width > held * kMaxThreads) return 0;
  return static_cast<int>((width + held * kWarp - 1) / (held * kWarp));
}

int rows_per_block(int warps) {
  return warps == 1 ? kRowsPerBlock : 1;
}

// A slot for each of `rows` rows.
LaunchShape shape_for(int64_t rows, int warps) {
  const int here = rows_per_block(warps);
  return {blocks_for(rows, here), static_cast<unsigned>(here * warps * kWarp)};
}

}  // namespace

void rms_norm_forward(const RmsNormForwardArgs& a) {
  if (a.rows == 0) return;
  const int warps = warps_for(a.width, kHeld, a.x_dtype, aligned_to(16, a.x, a.addend, a.weight, a.sum, a.y));
  dispatch("rms_norm", a.x_dtype, a.y_dtype, [&]<class X, class Y>(X, Y) {
    if (warps > 0) {
      launch(&rms_norm_forward_kernel<X, Y>, shape_for(a.rows, warps), a, warps);
    } else {
      launch(&rms_norm_forward_any_kernel<X, Y>, {static_cast<unsigned>(a.rows), kThreads}, a);
    }
  });
}

void rms_norm_backward(const RmsNormBackwardArgs& a) {
  if (a.rows == 0) return;
  const bool weight_gradient = a.dweight != nullptr && a.dy != nullptr;
  const bool aligned = aligned_to(16, a.x, a.weight, a.dy, a.dsum, a.dx, a.daddend);
  const int warps = warps_for(a.width, weight_gradient ? kHeldBeside : kHeld, a.x_dtype, aligned);

  // The weight's gradient is summed in slots, whose number does not depend on the device.
  const LaunchShape few = shape_for(std::min<int64_t>(a.rows, kSlots), warps);
  const unsigned slots = warps > 0 ? few.grid.x * static_cast<unsigned>(rows_per_block(warps)) : kSlotsAnyWidth;
  std::shared_ptr<Storage> memory;  // freed in the order of the device's work, behind the kernels
  float* partial = nullptr;         // [slots, width]
  if (weight_gradient) {
    memory = Storage::allocate(slots * static_cast<size_t>(a.width) * sizeof(float), Device{Device::Kind::cuda, 0});
    partial = reinterpret_cast<float*>(memory->data());
  }

  dispatch("rms_norm_backward", a.x_dtype, a.y_dtype, [&]<class X, class Y>(X, Y) {
    if (warps > 0 && weight_gradient) {
      launch(&rms_norm_backward_kernel<X, Y, true>, few, a, warps, partial);
    } else if (warps > 0) {
      launch(&rms_norm_backward_kernel<X, Y, false>, shape_for(a.rows, warps), a, warps, partial);
    } else {
      launch(&rms_norm_backward_any_kernel<X, Y>, {static_cast<unsigned>(a.rows), kThreads}, a);
      if (weight_gradient) {
        launch(&rms_norm_partial_weight_any_kernel<X, Y>, {dim3(blocks_for(a.width, kThreads), slots), kThreads}, a,
               partial);
      }
    }
  });
  if (weight_gradient) {
    launch(&rms_norm_weight_kernel, {blocks_for(a.width, kWarp), 1024}, partial, static_cast<int>(slots), a.width,
           static_cast<float*>(a.dweight));
  }
}

}  // namespace t6::cuda
