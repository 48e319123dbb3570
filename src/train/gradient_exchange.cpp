#include "train/gradient_exchange.h"

#include "dist/tree.h"
#include "ops/global_norm.h"

namespace t6::train {

GradientExchange::GradientExchange(const ParameterStore& store, const DataParallel& parallel)
    : store_(store), parallel_(parallel), readers_(parallel.partition.buckets().size(), 0) {
  if (parallel.world() == 1) return;
  const int64_t bucket = parallel.partition.buckets().front().count;  // all but the last have this size
  for (const Parameter& p : store.parameters()) {
    const auto first = static_cast<size_t>(p.offset() / bucket);
    const auto last = static_cast<size_t>((p.offset() + p.storage_shape().numel() - 1) / bucket);
    for (size_t b = first; b <= last; ++b) ++readers_[b];
    p.variable().set_on_ready([this, first, last] { ready(first, last); });
  }
}

GradientExchange::~GradientExchange() {
  if (parallel_.world() == 1) return;
  for (const Parameter& p : store_.parameters()) p.variable().set_on_ready({});
}

void GradientExchange::begin() {
  // A tree sums the finished gradients of all micro-steps, after the last one.
  active_ = parallel_.world() > 1 && parallel_.reduction == Reduction::fast;
  pending_ = readers_;
}

void GradientExchange::ready(size_t first_bucket, size_t last_bucket) {
  if (!active_) return;
  for (size_t b = last_bucket + 1; b-- > first_bucket;) {
    if (--pending_[b] == 0) send(b);
  }
}

void GradientExchange::send(size_t bucket) {
  const Span& span = parallel_.partition.buckets()[bucket];
  const Tensor part = store_.gradient().slice(span.begin, {span.count});
  if (parallel_.zero) {
    parallel_.communicator->reduce_scatter(part);
  } else {
    parallel_.communicator->all_reduce(part);
  }
}

void GradientExchange::finish() {
  if (parallel_.world() == 1) return;
  if (parallel_.reduction == Reduction::tree) {
    dist::tree_all_reduce(*parallel_.communicator, store_.gradient());
    return;
  }
  // What no backward pass reached, in an order that all ranks share.
  for (size_t b = pending_.size(); b-- > 0;) {
    if (pending_[b] > 0) send(b);
  }
  active_ = false;
  parallel_.communicator->wait();
}

Tensor GradientExchange::sum_of_squares() const {
  const Tensor& gradient = store_.gradient();
  if (!parallel_.zero) return t6::sum_of_squares({gradient});
  // Blocks of other ranks are zero here, and adding zero is exact.
  const Tensor blocks = Tensor::zeros({square_blocks(gradient.numel())}, DType::f64, gradient.device());
  for (const Span& span : parallel_.updated()) {
    sums_of_squares(gradient.slice(span.begin, {span.count}),
                    blocks.slice(span.begin / kSquaresBlock, {square_blocks(span.count)}));
  }
  parallel_.communicator->all_reduce(blocks);
  parallel_.communicator->wait();
  return sum(blocks);
}

}  // namespace t6::train
