// Moving heads between packed rows and head tensors, with RoPE on the way: the kernel under splits, rotary embedding
// and decode-cache rows. No tape here.
//
// A segment is `heads` vectors of `width` numbers in every row (token) of a source, each copied to the same place of
// the row of a destination, rotated or not. Sums over heads and rotations are in the accumulate type, rounded once.
#pragma once

#include <array>
#include <cstdint>

#include "ops/work.h"
#include "tensor/device.h"
#include "tensor/dtype.h"

namespace t6 {

struct HeadSegment {
  const void* source = nullptr;  // head 0 of row 0; null: zeros are written
  void* destination = nullptr;
  int64_t heads = 1;
  int64_t width = 0;                                  // even where rotated
  int64_t source_row = 0, source_head = 0;            // strides in elements; source_head 0 broadcasts one vector
  int64_t destination_row = 0, destination_head = 0;  // destination_head is not read where heads are summed
  // +1: y1 = x1 cos + x2 sin, y2 = -x1 sin + x2 cos for the pairs (i, i + width/2); -1: its inverse; 0: copy.
  int rotation = 0;
  bool sum_heads = false;  // one vector is written, the sum over heads
};

struct HeadCopyArgs {
  static constexpr int kMaxSegments = 8;
  std::array<HeadSegment, kMaxSegments> segments;
  int count = 0;
  const void* cos = nullptr;  // [positions, width/2] of the accumulate type; read where rotated
  const void* sin = nullptr;
  int64_t rows = 0;    // tokens of the whole batch
  int64_t window = 1;  // T: row i has position offset + i % window
  int64_t offset = 0;
  DType dtype = DType::f32;

  // Appends; Error(internal) past kMaxSegments. Empty segments are dropped.
  void add(const HeadSegment& segment);
};

// Runs on the device of the pointers.
void head_copy(Device device, const HeadCopyArgs& args);

inline double bytes_of(const HeadCopyArgs& a) {
  int64_t numbers = 0;  // of one row
  for (int i = 0; i < a.count; ++i) {
    const HeadSegment& s = a.segments[static_cast<size_t>(i)];
    if (s.source != nullptr) numbers += (s.source_head == 0 ? 1 : s.heads) * s.width;
    numbers += (s.sum_heads ? 1 : s.heads) * s.width;
  }
  return bytes_of(a.rows * numbers, a.dtype);
}

namespace cpu {
void head_copy(const HeadCopyArgs& args);

// One vector; S is the accumulate type, cos and sin are the row of its position [width/2].
template <class S>
inline void rotate(const S* x, const S* cos, const S* sin, S direction, S* y, int64_t width) {
  const int64_t half = width / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const S x1 = x[i], x2 = x[half + i], s = direction * sin[i];
    y[i] = x1 * cos[i] + x2 * s;
    y[half + i] = x2 * cos[i] - x1 * s;
  }
}
}  // namespace cpu
namespace cuda {
void head_copy(const HeadCopyArgs& args);
}  // namespace cuda

}  // namespace t6
