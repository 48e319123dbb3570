#include "ops/head_copy.h"
#include "tensor/cuda.h"

namespace t6::cuda {
namespace {

constexpr int kThreads = 128;

// Block (x, y): row x of segment y. A thread moves the pair (i, i + width/2) of a head, or one number where nothing is
// rotated.
template <class T>
__global__ void __launch_bounds__(kThreads) head_copy_kernel(HeadCopyArgs args) {
  using S = Accumulate<T>;
  const HeadSegment s = args.segments[blockIdx.y];
  const int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(s.source);
  if (x != nullptr) x += row * s.source_row;
  T* y = static_cast<T*>(s.destination) + row * s.destination_row;
  const int64_t heads = s.sum_heads ? 1 : s.heads, summed = s.sum_heads ? s.heads : 1;

  // Number i of head `head`, or the sum of number i over the heads.
  auto load = [&](int64_t head, int64_t i) {
    S sum = 0;
    for (int64_t j = 0; j < summed; ++j) sum += static_cast<S>(x[(head + j) * s.source_head + i]);
    return sum;
  };
  if (x == nullptr || s.rotation == 0) {
    for (int64_t at = threadIdx.x; at < heads * s.width; at += kThreads) {
      const int64_t head = at / s.width, i = at % s.width;
      y[head * s.destination_head + i] = static_cast<T>(x == nullptr ? S(0) : load(head, i));
    }
    return;
  }
  const int64_t half = s.width / 2;
  const int64_t angles = (args.offset + row % args.window) * half;
  const S* cos = static_cast<const S*>(args.cos) + angles;
  const S* sin = static_cast<const S*>(args.sin) + angles;
  for (int64_t at = threadIdx.x; at < heads * half; at += kThreads) {
    const int64_t head = at / half, i = at % half;
    const S x1 = load(head, i), x2 = load(head, half + i), turn = static_cast<S>(s.rotation) * sin[i];
    y[head * s.destination_head + i] = static_cast<T>(x1 * cos[i] + x2 * turn);
    y[head * s.destination_head + half + i] = static_cast<T>(x2 * cos[i] - x1 * turn);
  }
}

}  // namespace

void head_copy(const HeadCopyArgs& args) {
  if (args.rows == 0 || args.count == 0) return;
  T6_CHECK(args.dtype != DType::f64, "head_copy: f64 is not built for cuda");
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.count));
  if (args.dtype == DType::bf16) {
    launch(&head_copy_kernel<bfloat16>, {grid, kThreads}, args);
  } else {
    launch(&head_copy_kernel<float>, {grid, kThreads}, args);
  }
}

}  // namespace t6::cuda
