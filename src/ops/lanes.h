// Small matrix products for attention: C (+)= A B with B packed once into panels that many products read, C in
// registers while a sum runs. One code for f64, f32 and, on processors with bf16 dot products, pairs of bf16.
//
// An element is what one lane of a register multiplies: a number, or for such bf16 a pair that follows each other along
// the summed dimension ("depth"). A is read by broadcasting elements, so any strides do.
#pragma once

#include <algorithm>
#include <type_traits>

#include "ops/narrow.h"
#include "ops/vector.h"

namespace t6::cpu {

template <class T>
struct Lanes {
  using Sum = Accumulate<T>;
  using Element = Sum;
  static constexpr int64_t kPerElement = 1;
  using Register = typename Vector<Sum>::Type;

  static Register load(const Element* from) { return Vector<Sum>::load(from); }
  template <class Sums>
  static Sums multiply_add(Element a, Register b, Sums c) {
    return c + a * b;
  }
};

#if defined(__AVX512BF16__)
template <>
struct Lanes<bfloat16> {
  using Sum = float;
  using Element = uint32_t;  // two bf16, the first in the low half
  static constexpr int64_t kPerElement = 2;
  using Register = __m512i;

  static Register load(const Element* from) { return _mm512_loadu_si512(from); }
  static Vector<float>::Type multiply_add(Element a, Register b, Vector<float>::Type c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))),
                            reinterpret_cast<__m512bh>(b));
  }
};
#endif

template <class T>
using LaneElement = typename Lanes<T>::Element;

// Elements along a depth of `width` numbers.
template <class T>
constexpr int64_t depth_of(int64_t width) {
  return (width + Lanes<T>::kPerElement - 1) / Lanes<T>::kPerElement;
}

template <class T>
constexpr int64_t padded_columns(int64_t n) {
  constexpr int64_t kLanes = Vector<Accumulate<T>>::kLanes;
  return (n + kLanes - 1) / kLanes * kLanes;
}

// The element of numbers x[k * step] and, in a pair, x[(k + 1) * step]; numbers from `width` on are zero.
template <class T>
LaneElement<T> element(const T* x, int64_t step, int64_t k, int64_t width) {
  if constexpr (Lanes<T>::kPerElement == 1) {
    return static_cast<LaneElement<T>>(x[k * step]);
  } else {
    const uint32_t second = k + 1 < width ? x[(k + 1) * step].bits : 0;
    return x[k * step].bits | second << 16;
  }
}

// Whether numbers in memory are elements as they stand, two bf16 in a row being one.
template <class T>
inline constexpr bool kElementsInPlace = sizeof(LaneElement<T>) == sizeof(T) * Lanes<T>::kPerElement;

// A operand [rows, depth_of(width)] from rows of `width` numbers, `stride` apart.
template <class T>
void pack_rows(const T* x, int64_t stride, int64_t rows, int64_t width, LaneElement<T>* y) {
  const int64_t depth = depth_of<T>(width), whole = width / Lanes<T>::kPerElement;
  for (int64_t r = 0; r < rows; ++r, x += stride, y += depth) {
    if constexpr (kElementsInPlace<T>) {
      std::memcpy(y, x, static_cast<size_t>(whole) * sizeof(LaneElement<T>));
    } else {
      for (int64_t k = 0; k < whole; ++k) y[k] = element(x, 1, k, width);
    }
    if (whole < depth) y[whole] = element(x, 1, width - 1, width);
  }
}

constexpr int64_t kPanelRegisters = 4;

// Columns of a panel. Panels of a packed B follow each other; each is [depth, its columns], the last maybe narrower.
template <class T>
inline constexpr int64_t kPanelColumns = kPanelRegisters* Vector<Accumulate<T>>::kLanes;

// Elements of a packed B.
template <class T>
constexpr int64_t packed_size(int64_t depth_width, int64_t columns) {
  return depth_of<T>(depth_width) * padded_columns<T>(columns);
}

// B operand from `width` rows of `columns` numbers: summed over the rows.
template <class T>
void pack_columns(const T* x, int64_t stride, int64_t width, int64_t columns, LaneElement<T>* y) {
  constexpr int64_t kStep = Lanes<T>::kPerElement;
  for (int64_t c0 = 0; c0 < columns; c0 += kPanelColumns<T>) {
    const int64_t n = std::min(kPanelColumns<T>, columns - c0), ld = padded_columns<T>(n);
    for (int64_t k = 0; k < width; k += kStep, y += ld) {
      const T* from = x + k * stride + c0;
      if (kStep == 1 || k + 1 < width) {
#pragma omp simd
        for (int64_t c = 0; c < n; ++c) y[c] = element(from + c, stride, 0, kStep);
      } else {
        for (int64_t c = 0; c < n; ++c) y[c] = element(from + c, stride, 0, 1);
      }
      std::fill(y + n, y + ld, LaneElement<T>(0));
    }
  }
}

// y[k][i] = x[i][k] for 16 rows of 16 elements of four bytes, `ld` apart in y: four rounds, each of which interleaves
// rows i and i + 8.
template <class T>
void transpose_16(const T* x, int64_t stride, void* y, int64_t ld) {
  typedef uint32_t V __attribute__((vector_size(64)));
  V a[16], b[16];
  for (int i = 0; i < 16; ++i) std::memcpy(&a[i], x + i * stride, sizeof(V));
  auto round = [](const V* from, V* to) {
    for (int i = 0; i < 8; ++i) {
      to[2 * i] = __builtin_shufflevector(from[i], from[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      to[2 * i + 1] =
          __builtin_shufflevector(from[i], from[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
  };
  round(a, b);
  round(b, a);
  round(a, b);
  round(b, a);
  for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(y) + i * ld * 4, &a[i], sizeof(V));
}

// B operand from `columns` rows of `width` numbers, transposed: summed along the rows.
template <class T>
void pack_transposed(const T* x, int64_t stride, int64_t width, int64_t columns, LaneElement<T>* y) {
  constexpr int64_t kStep = Lanes<T>::kPerElement, kBlock = 16;
  const int64_t depth = depth_of<T>(width);
  for (int64_t c0 = 0; c0 < columns; c0 += kPanelColumns<T>) {
    const int64_t n = std::min(kPanelColumns<T>, columns - c0), ld = padded_columns<T>(n);
    for (int64_t c = 0; c < n; c += kBlock) {
      const T* from = x + (c0 + c) * stride;
      const int64_t count = std::min(kBlock, n - c);
      int64_t k = 0;
      if constexpr (kElementsInPlace<T> && sizeof(LaneElement<T>) == 4) {
        for (; count == kBlock && (k + kBlock) * kStep <= width; k += kBlock) {
          transpose_16(from + k * kStep, stride, y + k * ld + c, ld);
        }
      }
      for (; k < depth; ++k) {
        for (int64_t i = 0; i < count; ++i) y[k * ld + c + i] = element(from + i * stride, 1, k * kStep, width);
      }
    }
    for (int64_t k = 0; k < depth; ++k, y += ld) std::fill(y + n, y + ld, LaneElement<T>(0));
  }
}

// Sums as elements of an A operand (numbers are stored by vector instructions, which may alias elements): y [n, rounded
// up to whole elements] = x, in the storage type where elements hold it.
template <class T>
void round_row(const Accumulate<T>* x, LaneElement<T>* y, int64_t n) {
  if constexpr (std::is_same_v<LaneElement<T>, Accumulate<T>>) {
    if (x != y) std::copy_n(x, n, y);
  } else {
    if (n % 2 != 0) y[n / 2] = 0;  // before the numbers: its low half is the last of them
    narrow(x, reinterpret_cast<T*>(y), n);
  }
}

// Two rows as elements that pair them: y[i] = (first[i], second[i]). Only for pairs.
inline void pair_rows(const float* first, const float* second, uint32_t* y, int64_t n) {
#if defined(__AVX512BF16__)
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = static_cast<__mmask16>((1U << std::min<int64_t>(16, n - i)) - 1U);
    const __m256bh low = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, first + i));
    const __m256bh high = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, second + i));
    // The masked forms: gcc 12 warns about the others.
    const __m512i first_half = _mm512_maskz_cvtepu16_epi32(lanes, reinterpret_cast<__m256i>(low));
    const __m512i second_half = _mm512_maskz_cvtepu16_epi32(lanes, reinterpret_cast<__m256i>(high));
    const __m512i pairs = first_half | _mm512_maskz_slli_epi32(lanes, second_half, 16);
    _mm512_mask_storeu_epi32(y + i, lanes, pairs);
  }
#else
  for (int64_t i = 0; i < n; ++i) y[i] = bfloat16(first[i]).bits | uint32_t{bfloat16(second[i]).bits} << 16;
#endif
}

// C [M, N registers] (+)= A [M, depth] B [depth, N registers].
template <class T, int M, int N>
inline void multiply_strip(const LaneElement<T>* a, int64_t a_row, int64_t a_step, const LaneElement<T>* b, int64_t ldb,
                           Accumulate<T>* c, int64_t ldc, int64_t depth, bool add) {
  using V = Vector<Accumulate<T>>;
  typename V::Type sums[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) {
      if (add) {
        sums[i][v] = V::load(c + i * ldc + v * V::kLanes);
      } else {
        sums[i][v] = typename V::Type{};
      }
    }
  }
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += ldb) {
    typename Lanes<T>::Register row[N];
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) row[v] = Lanes<T>::load(b + v * V::kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) sums[i][v] = Lanes<T>::multiply_add(a[i * a_row], row[v], sums[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) V::store(c + i * ldc + v * V::kLanes, sums[i][v]);
  }
}

// What of C a strip of rows needs: columns [column, column_end), summed over elements [k, k_end).
struct Part {
  int64_t column, column_end, k, k_end;
};

constexpr int kStripRows = 6;  // with kPanelRegisters: 24 sums, 4 of B and one of A in 32 registers

template <class T>
struct Operand {
  const LaneElement<T>* data;
  int64_t row, step;  // strides of rows and of elements along the depth
};

// C [m, columns] (+)= A [m, depth] B; b is packed with `columns` columns, depth counts elements. part(i, end) tells
// what rows [i, end) need; columns are rounded outwards to registers, so that C must have room for padded_columns in a
// row.
template <class T, class F>
void multiply(const Operand<T>& a, const LaneElement<T>* b, Accumulate<T>* c, int64_t ldc, int64_t m, int64_t columns,
              int64_t depth, bool add, F&& part) {
  constexpr int64_t kLanes = Vector<Accumulate<T>>::kLanes;
  for (int64_t c0 = 0; c0 < columns; c0 += kPanelColumns<T>) {
    const int64_t ld = padded_columns<T>(std::min(kPanelColumns<T>, columns - c0));
    for (int64_t i = 0; i < m; i += kStripRows) {
      const int64_t rows = std::min<int64_t>(kStripRows, m - i);
      const Part p = part(i, i + rows);
      const int64_t begin = std::max<int64_t>(p.column - c0, 0) / kLanes * kLanes;
      const int64_t end = std::min(ld, padded_columns<T>(std::max<int64_t>(p.column_end - c0, 0)));
      if (begin >= end) continue;
      const LaneElement<T>* from = b + p.k * ld + begin;
      const LaneElement<T>* left = a.data + i * a.row + p.k * a.step;
      Accumulate<T>* to = c + i * ldc + c0 + begin;
      const int64_t count = std::max<int64_t>(p.k_end - p.k, 0);
      [&]<int... I>(std::integer_sequence<int, I...>) {
        const int64_t kind = (rows - 1) * kPanelRegisters + (end - begin) / kLanes - 1;
        ((kind == I ? multiply_strip<T, I / kPanelRegisters + 1, I % kPanelRegisters + 1>(left, a.row, a.step, from, ld,
                                                                                          to, ldc, count, add)
                    : void()),
         ...);
      }
      (std::make_integer_sequence<int, kStripRows * kPanelRegisters>{});
    }
    b += depth * ld;
  }
}

}  // namespace t6::cpu
