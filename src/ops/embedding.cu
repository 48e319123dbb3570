#include <algorithm>

#include "ops/embedding.h"
#include "ops/packs.cuh"
#include "ops/token_order.h"

namespace t6::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kPiece = kEmbeddingPiece;
constexpr int kAhead = 4;  // rows a thread reads before it uses the first

// One thread N columns of a row. Moves a row of the table and one of y a token: the least there is, but for rows of the
// table that the cache still holds.
template <class X, class Y, int N>
__global__ void __launch_bounds__(kThreads) embedding_forward_kernel(EmbeddingForwardArgs a) {
  const auto [row, column] = place_of_thread<kThreads>(static_cast<unsigned>(a.width / N));
  if (row >= a.rows) return;
  const auto x = load_pack<N>(static_cast<const X*>(a.table) + a.tokens[row] * a.width + column * N);
  Pack<Y, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) store(y.v[i], static_cast<float>(x.v[i]));
  store_pack(static_cast<Y*>(a.y) + row * a.width + column * N, y);
}

// Block (p, c): tokens [p, p + 1) kPiece of the ordered ones, N columns a thread. Equal tokens are neighbours and added
// up in order, onto the row of dtable where their run begins in this piece; the end of a run that began in an earlier
// one goes to pieces[p]. Reads dy once, reads and writes each row of dtable that occurs once.
template <class Y, int N>
__global__ void __launch_bounds__(kThreads) embedding_backward_kernel(EmbeddingBackwardArgs a, TokenOrder order) {
  __shared__ int32_t tokens[kPiece], positions[kPiece];
  __shared__ bool begins[kPiece], ends[kPiece];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kPiece;
  const int count = static_cast<int>(min(a.rows - first, static_cast<int64_t>(kPiece)));
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const int64_t at = first + i;
    tokens[i] = order.tokens[at];
    positions[i] = order.positions[at];
    begins[i] = at == 0 || order.tokens[at - 1] != tokens[i];
    ends[i] = i == count - 1 || order.tokens[at + 1] != tokens[i];
  }
  __syncthreads();
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * N;
  if (column >= a.width) return;
  const Y* dy = static_cast<const Y*>(a.dy) + column;
  float* dtable = static_cast<float*>(a.dtable) + column;

  Pack<float, N> sum{};
  float* to = a.pieces + blockIdx.x * a.width + column;
  for (int begin = 0; begin < count; begin += kAhead) {
    Pack<Y, N> d[kAhead]{};
    Pack<float, N> before[kAhead]{};
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = begin + k;
      if (i >= count) continue;
      d[k] = load_pack<N>(dy + positions[i] * a.width);
      if (begins[i]) before[k] = load_pack<N>(dtable + tokens[i] * a.width);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = begin + k;
      if (i >= count) continue;
      if (begins[i]) {
        sum = before[k];
        to = dtable + tokens[i] * a.width;
      }
#pragma unroll
      for (int j = 0; j < N; ++j) sum.v[j] += static_cast<float>(d[k].v[j]);
      if (ends[i]) store_pack(to, sum);
    }
  }
}

// Block (p, c): when a run begins in piece p and goes on beyond it, adds up what the later pieces hold of it, in order.
// Other blocks have nothing to do.
template <int N>
__global__ void __launch_bounds__(kThreads) embedding_join_kernel(EmbeddingBackwardArgs a, TokenOrder order) {
  const int64_t piece = blockIdx.x, first = piece * kPiece, next = first + kPiece;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * N;
  if (next >= a.rows || column >= a.width) return;
  const int32_t token = order.tokens[next];
  const bool began_before = first > 0 && order.tokens[first - 1] == token;
  if (order.tokens[next - 1] != token || began_before) return;

  int64_t last = piece + 1, behind = gridDim.x;  // the run reaches into `last` and not into `behind`
  while (behind - last > 1) {
    const int64_t middle = (last + behind) / 2;
    (order.tokens[middle * kPiece] == token ? last : behind) = middle;
  }
  float* to = static_cast<float*>(a.dtable) + token * a.width + column;
  Pack<float, N> sum = load_pack<N>(to);
#pragma unroll 8
  for (int64_t p = piece + 1; p <= last; ++p) {
    const auto part = load_pack<N>(a.pieces + p * a.width + column);
#pragma unroll
    for (int j = 0; j < N; ++j) sum.v[j] += part.v[j];
  }
  store_pack(to, sum);
}

}  // namespace

void embedding_forward(const EmbeddingForwardArgs& a) {
  if (a.rows == 0 || a.width == 0) return;
  dispatch_gpu("embedding", a.table_dtype, [&]<class X>(X) {
    dispatch_gpu("embedding", a.y_dtype, [&]<class Y>(Y) {
      constexpr int kPack = std::min(kPackOf<X>, kPackOf<Y>);
      const bool packed = a.width % kPack == 0 && aligned_to(16, a.table, a.y);
      dispatch_packed<kPack>(packed, [&]<int N>(std::integral_constant<int, N>) {
        launch(&embedding_forward_kernel<X, Y, N>, {blocks_for(a.rows * (a.width / N), kThreads), kThreads}, a);
      });
    });
  });
}

void embedding_backward(const EmbeddingBackwardArgs& a) {
  if (a.rows == 0 || a.width == 0) return;
  const TokenOrder order = order_tokens(a.tokens, a.rows, a.vocabulary, a.order_scratch);
  dispatch_gpu("embedding_backward", a.y_dtype, [&]<class Y>(Y) {
    const bool packed = a.width % 4 == 0 && aligned_to(16, a.dy, a.dtable, a.pieces);
    dispatch_packed<4>(packed, [&]<int N>(std::integral_constant<int, N>) {
      const LaunchShape shape{dim3(blocks_for(a.rows, kPiece), blocks_for(a.width, kThreads * N)), kThreads};
      launch(&embedding_backward_kernel<Y, N>, shape, a, order);
      launch(&embedding_join_kernel<N>, shape, a, order);
    });
  });
}

}  // namespace t6::cuda
