#include "ops/head_copy.h"

#include <cstring>
#include <vector>

#include "ops/kernel.h"
#include "tensor/parallel.h"

namespace t6 {
namespace cpu {
namespace {

constexpr int64_t kRowGrain = 8;

template <class T, class S>
void rotate_rounded(const T* x, const S* cos, const S* sin, S direction, T* y, int64_t width) {
  const int64_t half = width / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const S x1 = static_cast<S>(x[i]), x2 = static_cast<S>(x[half + i]), s = direction * sin[i];
    y[i] = static_cast<T>(x1 * cos[i] + x2 * s);
    y[half + i] = static_cast<T>(x2 * cos[i] - x1 * s);
  }
}

// `sum` is scratch [width].
template <class T, class S>
void sum_of_heads(const HeadSegment& s, const T* x, const S* cos, const S* sin, T* y, S* sum) {
  std::fill_n(sum, s.width, S(0));
  for (int64_t head = 0; head < s.heads; ++head) {
    const T* from = x + head * s.source_head;
#pragma omp simd
    for (int64_t i = 0; i < s.width; ++i) sum[i] += static_cast<S>(from[i]);
  }
  if (s.rotation != 0) rotate(sum, cos, sin, static_cast<S>(s.rotation), sum, s.width);
#pragma omp simd
  for (int64_t i = 0; i < s.width; ++i) y[i] = static_cast<T>(sum[i]);
}

template <class T>
void copy_row(const HeadCopyArgs& args, const HeadSegment& s, int64_t row, Accumulate<T>* scratch) {
  using S = Accumulate<T>;
  T* y = static_cast<T*>(s.destination) + row * s.destination_row;
  const int64_t destinations = s.sum_heads ? 1 : s.heads;
  if (s.source == nullptr) {
    for (int64_t head = 0; head < destinations; ++head) {
      std::fill_n(y + head * s.destination_head, s.width, static_cast<T>(S(0)));
    }
    return;
  }
  const T* x = static_cast<const T*>(s.source) + row * s.source_row;
  const int64_t at = (args.offset + row % args.window) * (s.width / 2);
  const S* cos = s.rotation != 0 ? static_cast<const S*>(args.cos) + at : nullptr;
  const S* sin = s.rotation != 0 ? static_cast<const S*>(args.sin) + at : nullptr;
  if (s.sum_heads) {
    sum_of_heads(s, x, cos, sin, y, scratch);
    return;
  }
  for (int64_t head = 0; head < s.heads; ++head) {
    const T* from = x + head * s.source_head;
    T* to = y + head * s.destination_head;
    if (s.rotation != 0) {
      rotate_rounded(from, cos, sin, static_cast<S>(s.rotation), to, s.width);
    } else {
      std::memcpy(to, from, static_cast<size_t>(s.width) * sizeof(T));
    }
  }
}

}  // namespace

void head_copy(const HeadCopyArgs& args) {
  int64_t widest = 0;
  for (int i = 0; i < args.count; ++i) widest = std::max(widest, args.segments[i].width);
  dispatch_float(args.dtype, [&]<class T>(T) {
    parallel_for(args.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      std::vector<Accumulate<T>> scratch(static_cast<size_t>(widest));
      for (int64_t row = begin; row < end; ++row) {
        for (int i = 0; i < args.count; ++i) copy_row<T>(args, args.segments[i], row, scratch.data());
      }
    });
  });
}

}  // namespace cpu

namespace {

constexpr Kernel<HeadCopyArgs> kHeadCopy{"head_copy", &cpu::head_copy, T6_CUDA_KERNEL(cuda::head_copy)};

}  // namespace

void HeadCopyArgs::add(const HeadSegment& segment) {
  if (segment.heads == 0 || segment.width == 0) return;
  T6_CHECK(count < kMaxSegments, "[head_copy] expected at most {} segments", kMaxSegments);
  segments[static_cast<size_t>(count++)] = segment;
}

void head_copy(Device device, const HeadCopyArgs& args) {
  if (args.rows > 0) kHeadCopy(device, args);
}

}  // namespace t6
