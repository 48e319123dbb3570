// Tensor-core instructions of sm_80 on bf16: matrix fragments spread over the lanes of a warp. All 32 lanes take part
// in each call. On the emulated device they are computed from the documented layout of fragments (PTX ISA, "Matrix
// Fragments for mma.m16n8k16"), lane by lane.
//
// Lane l is at row l / 4 and pair l % 4. Register i holds two neighbouring bf16, the lower one in the lower half:
//   A, 16 x 16: rows l/4 + 8 (i % 2), columns 8 (i / 2) + 2 (l % 4) + {0, 1}
//   B, 16 x 8:  rows 8 i + 2 (l % 4) + {0, 1}, column l/4
//   C, 16 x 8:  f32 number i at row l/4 + 8 (i / 2), column 2 (l % 4) + i % 2
#pragma once

#include <cstring>

#include "ops/pack.cuh"
#include "tensor/cuda.h"
#include "tensor/dtype.h"

namespace t6::cuda {

#if defined(T6_CUDA_EMULATION)
namespace emulated {
inline float half_of(unsigned pair, int high) {
  return std::bit_cast<float>(high != 0 ? pair & 0xFFFF0000u : pair << 16);
}
}  // namespace emulated
#endif

// c += a b.
__device__ inline void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(T6_CUDA_EMULATION)
  struct Lane {
    unsigned a[4], b[2];
  };
  Lane mine, all[kWarp];
  std::memcpy(mine.a, a, sizeof(a));
  std::memcpy(mine.b, b, sizeof(b));
  t6_emulation::gather(&mine, sizeof(mine), all);
  const int lane = t6_emulation::lane();
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 16; ++k) {
      const Lane& row_lane = all[lane / 4 * 4 + k % 8 / 2];
      const Lane& column_lane = all[column * 4 + k % 8 / 2];
      c[i] +=
          emulated::half_of(row_lane.a[i / 2 + 2 * (k / 8)], k % 2) * emulated::half_of(column_lane.b[k / 8], k % 2);
    }
  }
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 x 8 matrices from shared memory. Lane l names row l % 8 of matrix l / 8 (16 bytes, aligned); it gets from
// matrix i the columns 2 (l % 4) + {0, 1} of row l / 4 - or, transposed, these rows of column l / 4.
template <bool kTransposed>
__device__ inline void load_matrices(unsigned (&to)[4], const bfloat16* row) {
#if defined(T6_CUDA_EMULATION)
  t6_emulation::require_aligned(row, 16);
  const bfloat16* rows[kWarp];
  t6_emulation::gather(&row, sizeof(row), rows);
  const int lane = t6_emulation::lane();
  for (int i = 0; i < 4; ++i) {
    auto at = [&](int r, int c) { return static_cast<unsigned>(rows[8 * i + r][c].bits); };
    const int single = lane / 4, pair = 2 * (lane % 4);
    to[i] = kTransposed ? at(pair, single) | at(pair + 1, single) << 16 : at(single, pair) | at(single, pair + 1) << 16;
  }
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

namespace fragments {

// Columns of whole fragments.
__host__ __device__ constexpr int rounded(int width) {
  return (width + 15) / 16 * 16;
}
// Numbers from one row of a tile in shared memory to the next: an odd count of 16 bytes, so that 8 rows read at one
// column meet no bank twice.
__host__ __device__ constexpr int stride_of(int width) {
  return rounded(width) + 8;
}

// The largest and the sum over the four lanes that hold a row of C, given to each of them.
__device__ inline float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
__device__ inline float row_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

}  // namespace fragments

}  // namespace t6::cuda
