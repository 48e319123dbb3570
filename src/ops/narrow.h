// Rounding rows of the accumulate type to the storage type, with the processor's bf16 conversion where it has one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/dtype.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace t6::cpu {

// y[i] = x[i] to the nearest, ties to even. bf16 results below 2^-126 may become zero.
inline void narrow(const float* x, bfloat16* y, int64_t n) {
#if defined(__AVX512BF16__)
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = static_cast<__mmask16>((1U << std::min<int64_t>(16, n - i)) - 1U);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, x + i));
    _mm256_mask_storeu_epi16(y + i, lanes, reinterpret_cast<__m256i>(rounded));
  }
#else
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = bfloat16(x[i]);
#endif
}

template <class S>
inline void narrow(const S* x, S* y, int64_t n) {
  if (x != y) std::copy_n(x, n, y);
}

}  // namespace t6::cpu
