#include "dist/tree.h"

#include <algorithm>

namespace t6::dist {
namespace {

void receive_and_add(Communicator& c, int peer, const Tensor& x, const Tensor& scratch) {
  c.receive(peer, scratch);
  c.wait();
  x.add_from(scratch);
}

// Addition commutes, so both sides of an exchange get the same bits.
void reduce_part(Communicator& c, const Tensor& x, const Tensor& scratch) {
  const int rank = c.rank(), world = c.world();
  int even = 1;  // the largest power of two in world
  while (2 * even <= world) even *= 2;
  // Ranks beyond it hand what they have to a rank within, and get the result back.
  const int extra = world - even;
  if (rank >= even) {
    c.send(rank - even, x);
    c.receive(rank - even, x);
    c.wait();
    return;
  }
  if (rank < extra) receive_and_add(c, rank + even, x, scratch);
  for (int distance = 1; distance < even; distance *= 2) {
    c.exchange(rank ^ distance, x, scratch);
    c.wait();
    x.add_from(scratch);
  }
  if (rank < extra) {
    c.send(rank + even, x);
    c.wait();
  }
}

}  // namespace

void tree_all_reduce(Communicator& communicator, const Tensor& x) {
  if (communicator.world() == 1) return;
  const int64_t most = kTreeScratch / static_cast<int64_t>(size_of(x.dtype()));
  const Tensor scratch = Tensor::empty({std::min(most, x.numel())}, x.dtype(), x.device());
  for (int64_t at = 0; at < x.numel(); at += most) {
    const int64_t count = std::min(most, x.numel() - at);
    reduce_part(communicator, x.slice(at, {count}), scratch.slice(0, {count}));
  }
}

}  // namespace t6::dist
