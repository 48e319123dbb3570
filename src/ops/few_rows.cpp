#include "ops/few_rows.h"

#include <omp.h>

#include <utility>

#include "ops/wide_load.h"
#include "tensor/storage.h"

namespace t6::cpu {
namespace {

// Below this many numbers of B starting a team of threads costs more than it saves.
constexpr int64_t kOneThreadNumbers = int64_t{1} << 15;
// What a thread takes at a time: small enough that a thread which lost its processor for a while is helped by the
// others, large enough that memory is read in long runs (a quarter of it takes a tenth longer).
constexpr int64_t kShareBytes = int64_t{1} << 18;
// How far ahead of its use memory is asked for.
constexpr int64_t kAheadBytes = 2048;

// Calls f(begin, end) for shares of [0, n), on all threads as they come free; `step` is a multiple of what f likes.
template <class F>
void for_shares(int64_t n, int64_t numbers, int64_t step, F&& f) {
  if (numbers <= kOneThreadNumbers || omp_in_parallel()) return f(int64_t{0}, n);
  const int64_t shares = (n + step - 1) / step;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < shares; ++i) f(i * step, std::min(n, (i + 1) * step));
}

// c[i][j] = sum_k a[i][k] b[j][k] for M rows of a, spread and padded to `depth`, and N rows of b.
template <class T, class Out, int M, int N>
inline void dots(const float* a, int64_t depth, const T* b, int64_t ldb, int64_t k, Out* c, int64_t ldc) {
  using W = WideBlock<T>;
  using V = typename W::V;
  typename W::Register first[M][N] = {}, second[M][N] = {};
  const auto add = [&](int64_t at, auto load) {
    typename W::Register left[M][2];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) {
      left[i][0] = V::load(a + i * depth + at);
      left[i][1] = V::load(a + i * depth + at + W::kLanes);
    }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      // Of one row what follows in it, else the rows that come next.
      const T* next = N == 1 ? b + at + kAheadBytes / static_cast<int64_t>(sizeof(T)) : b + (N + j) * ldb + at;
      prefetch(next, W::kNumbers * static_cast<int64_t>(sizeof(T)));
      const W block = load(b + j * ldb + at);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) {
        first[i][j] += left[i][0] * block.first;
        second[i][j] += left[i][1] * block.second;
      }
    }
  };
  int64_t at = 0;
  for (; at + W::kNumbers <= k; at += W::kNumbers) {
    add(at, [](const T* from) { return W::load(from); });
  }
  if (at < k) {
    add(at, [&](const T* from) { return W::load(from, k - at); });
  }
#pragma GCC unroll 4
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) store(c[i * ldc + j], V::sum(first[i][j] + second[i][j]));
  }
}

// C = A B^T. One row of A is bound by memory, which is fastest read in its order; several by arithmetic, where two rows
// of B share what was loaded of A.
template <class T, class Out, int M>
void times_transposed(const MatmulArgs& args) {
  using W = WideBlock<T>;
  constexpr int N = M == 1 ? 1 : 2;
  const int64_t depth = W::padded(args.k), ldb = args.ldb, ldc = args.ldc;
  const auto storage = Storage::allocate(static_cast<size_t>(M * depth) * sizeof(float), kCpu);
  float* a = reinterpret_cast<float*>(storage->data());
  for (int64_t i = 0; i < M; ++i) W::spread(static_cast<const T*>(args.a) + i * args.lda, args.k, a + i * depth);
  const T* b = static_cast<const T*>(args.b);
  Out* c = static_cast<Out*>(args.c);
  const int64_t row_bytes = args.k * static_cast<int64_t>(sizeof(T));
  const int64_t step = std::max<int64_t>(1, kShareBytes / row_bytes / N) * N;
  for_shares(args.n, args.n * args.k, step, [&](int64_t begin, int64_t end) {
    int64_t j = begin;
    for (; j + N <= end; j += N) dots<T, Out, M, N>(a, depth, b + j * ldb, ldb, args.k, c + j, ldc);
    for (; j < end; ++j) dots<T, Out, M, 1>(a, depth, b + j * ldb, ldb, args.k, c + j, ldc);
  });
}

// Columns [0, columns) of C = A B, at most one block.
template <class T, class Out, int M>
void column_block(const MatmulArgs& args, const T* b, Out* c, int64_t columns) {
  using W = WideBlock<T>;
  typename W::Register first[M] = {}, second[M] = {};
  const T* a = static_cast<const T*>(args.a);
  for (int64_t k = 0; k < args.k; ++k, b += args.ldb) {
    const W block = columns == W::kNumbers ? W::load(b) : W::load(b, columns);
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) {
      const float left = static_cast<float>(a[i * args.lda + k]);
      first[i] += left * block.first;
      second[i] += left * block.second;
    }
  }
  float spread[W::kNumbers], sums[W::kNumbers];
  for (int i = 0; i < M; ++i) {
    W::V::store(spread, first[i]);
    W::V::store(spread + W::kLanes, second[i]);
    W::gather(spread, sums, columns);
    for (int64_t j = 0; j < columns; ++j) store(c[i * args.ldc + j], sums[j]);
  }
}

template <class T, class Out, int M>
void times(const MatmulArgs& args) {
  constexpr int64_t kNumbers = WideBlock<T>::kNumbers;
  const T* b = static_cast<const T*>(args.b);
  Out* c = static_cast<Out*>(args.c);
  for_shares(args.n, args.n * args.k, 4 * kNumbers, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += kNumbers) {
      column_block<T, Out, M>(args, b + j, c + j, std::min(kNumbers, end - j));
    }
  });
}

template <class T, class Out>
void product(const MatmulArgs& args) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    ((args.m == I + 1 ? (args.transpose_b ? times_transposed<T, Out, I + 1>(args) : times<T, Out, I + 1>(args))
                      : void()),
     ...);
  }
  (std::make_integer_sequence<int, kFewRows>{});
}

}  // namespace

bool takes_few_rows(const MatmulArgs& args) {
  return args.m >= 1 && args.m <= kFewRows && args.n >= 1 && args.k >= 1 && !args.transpose_a && !args.accumulate &&
         (args.in_dtype == DType::f32 || args.in_dtype == DType::bf16);
}

void matmul_few_rows(const MatmulArgs& args) {
  if (args.in_dtype == DType::f32) {
    product<float, float>(args);
  } else if (args.out_dtype == DType::f32) {
    product<bfloat16, float>(args);
  } else {
    product<bfloat16, bfloat16>(args);
  }
}

}  // namespace t6::cpu
