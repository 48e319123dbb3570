#include "ops/token_order.h"

#include <limits>
#include <utility>

#include "tensor/cuda.h"

namespace t6::cuda {
namespace {

constexpr int kThreads = kTokenTile;
constexpr int kDigits = kTokenDigits;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAll = 0xffffffffu;

__device__ inline int digit_of(int32_t token, int shift) {
  return token >> shift & (kDigits - 1);
}

// Sum over the lanes up to this one.
__device__ inline int warp_scan(int value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int below = __shfl_up_sync(kAll, value, offset);
    if (lane >= offset) value += below;
  }
  return value;
}

// counts[digit, tile]: how often the digit occurs in the tile. One block a tile.
__global__ void __launch_bounds__(kThreads)
    count_digits_kernel(const int32_t* tokens, int64_t count, int shift, int32_t* counts) {
  __shared__ int histogram[kDigits];
  const int t = static_cast<int>(threadIdx.x);
  if (t < kDigits) histogram[t] = 0;
  __syncthreads();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + t;
  if (at < count) atomicAdd(&histogram[digit_of(tokens[at], shift)], 1);
  __syncthreads();
  if (t < kDigits) counts[static_cast<int64_t>(t) * gridDim.x + blockIdx.x] = histogram[t];
}

// counts[digit, tile]: how often in the tiles before; totals[digit]: in all. One warp a digit.
__global__ void __launch_bounds__(kThreads) scan_tiles_kernel(int32_t* counts, int32_t* totals, int tiles) {
  const int digit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int32_t* row = counts + static_cast<int64_t>(digit) * tiles;
  int before = 0;
  for (int begin = 0; begin < tiles; begin += kWarp) {
    const int value = begin + lane < tiles ? row[begin + lane] : 0;
    const int scanned = warp_scan(value);
    if (begin + lane < tiles) row[begin + lane] = before + scanned - value;
    before += __shfl_sync(kAll, scanned, kWarp - 1);
  }
  if (lane == 0) totals[digit] = before;
}

// Moves a tile's tokens to where their digit's turn is: behind smaller digits, equal ones of earlier tiles, of earlier
// warps and of lower lanes. `positions` null: a token stands at its index.
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const int32_t* tokens, const int32_t* positions, int64_t count, int shift, const int32_t* counts,
                   const int32_t* totals, int32_t* tokens_out, int32_t* positions_out) {
  __shared__ int place[kWarps][kDigits];  // first how many of the digit the warp has, then where its first one goes
  __shared__ int of_warps[kDigits / kWarp];
  const int t = static_cast<int>(threadIdx.x), lane = t % kWarp, warp = t / kWarp;
  for (int i = t; i < kWarps * kDigits; i += kThreads) place[i / kDigits][i % kDigits] = 0;
  const int total = t < kDigits ? totals[t] : 0, scanned = warp_scan(total);
  if (t < kDigits && lane == kWarp - 1) of_warps[warp] = scanned;
  __syncthreads();

  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + t;
  const bool inside = at < count;
  const int32_t token = inside ? tokens[at] : 0;
  const int digit = digit_of(token, shift);
  unsigned equal = __ballot_sync(kAll, inside);  // lanes with the same digit
  for (int bit = 1; bit < kDigits; bit *= 2) {
    const unsigned set = __ballot_sync(kAll, (digit & bit) != 0);
    equal &= (digit & bit) != 0 ? set : ~set;
  }
  const int rank = __popc(equal & ((1u << lane) - 1u));
  if (inside && rank == 0) place[warp][digit] = __popc(equal);
  __syncthreads();

  if (t < kDigits) {
    int next = scanned - total + counts[static_cast<int64_t>(t) * gridDim.x + blockIdx.x];
    for (int w = 0; w < warp; ++w) next += of_warps[w];
    for (int w = 0; w < kWarps; ++w) {
      const int here = place[w][t];
      place[w][t] = next;
      next += here;
    }
  }
  __syncthreads();
  if (inside) {
    const int to = place[warp][digit] + rank;
    tokens_out[to] = token;
    positions_out[to] = positions != nullptr ? positions[at] : static_cast<int32_t>(at);
  }
}

}  // namespace

TokenOrder order_tokens(const int32_t* tokens, int64_t count, int64_t vocabulary, int32_t* scratch) {
  T6_CHECK(count > 0 && count <= std::numeric_limits<int32_t>::max(), "order_tokens: {} tokens", count);
  const unsigned tiles = blocks_for(count, kTokenTile);
  int32_t* counts = scratch + 4 * count;
  int32_t* totals = counts + kTokenDigits * tiles;
  int32_t *to = scratch, *other = scratch + 2 * count;
  TokenOrder order{tokens, nullptr};
  for (int shift = 0; shift == 0 || (vocabulary - 1) >> shift > 0; shift += 8) {
    launch(&count_digits_kernel, {tiles, kThreads}, order.tokens, count, shift, counts);
    launch(&scan_tiles_kernel, {kDigits / kWarps, kThreads}, counts, totals, tiles);
    launch(&scatter_kernel, {tiles, kThreads}, order.tokens, order.positions, count, shift, counts, totals, to,
           to + count);
    order = {to, to + count};
    std::swap(to, other);
  }
  return order;
}

}  // namespace t6::cuda
