// Rows of f32 or bf16 moved by 16-byte instructions and worked on as f32.
#pragma once

#include <bit>
#include <type_traits>

#include "tensor/cuda.h"
#include "tensor/dtype.h"

namespace t6::cuda {

// Number j of a pack, for j known when compiled: one instruction for bf16, whose pairs lie in words.
template <class T, int N>
__device__ inline float number(const Pack<T, N>& pack, int j) {
  if constexpr (std::is_same_v<T, bfloat16> && N > 1) {
    const uint32_t word = std::bit_cast<Pack<uint32_t, N / 2>>(pack).v[j / 2];
    return std::bit_cast<float>(j % 2 == 0 ? word << 16 : word & 0xFFFF0000u);
  } else {
    return static_cast<float>(pack.v[j]);
  }
}

// N elements: as many 16-byte pieces as they fill, or one smaller one. `from` and `to` are aligned to the piece.
template <int N, class T>
__device__ inline void load_floats(const T* from, float (&to)[N]) {
  constexpr int kPiece = N < kPackOf<T> ? N : kPackOf<T>;
  static_assert(N % kPiece == 0);
#pragma unroll
  for (int i = 0; i < N; i += kPiece) {
    const Pack<T, kPiece> piece = load_pack<kPiece>(from + i);
#pragma unroll
    for (int j = 0; j < kPiece; ++j) to[i + j] = number(piece, j);
  }
}

// Two numbers rounded to bf16, the first in the lower half.
__device__ inline uint32_t round_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return bfloat16::round(low) | uint32_t{bfloat16::round(high)} << 16;
#endif
}

template <int N, class T>
__device__ inline void store_floats(T* to, const float (&from)[N]) {
  constexpr int kPiece = N < kPackOf<T> ? N : kPackOf<T>;
  static_assert(N % kPiece == 0);
#pragma unroll
  for (int i = 0; i < N; i += kPiece) {
    if constexpr (std::is_same_v<T, bfloat16> && kPiece > 1) {
      Pack<uint32_t, kPiece / 2> piece;
#pragma unroll
      for (int j = 0; j < kPiece / 2; ++j) piece.v[j] = round_pair(from[i + 2 * j], from[i + 2 * j + 1]);
      store_pack(to + i, std::bit_cast<Pack<T, kPiece>>(piece));
    } else {
      Pack<T, kPiece> piece;
#pragma unroll
      for (int j = 0; j < kPiece; ++j) piece.v[j] = static_cast<T>(from[i + j]);
      store_pack(to + i, piece);
    }
  }
}

}  // namespace t6::cuda
