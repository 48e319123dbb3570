// How ranks share the work on one model: each computes gradients of its own windows, the sums are exchanged bucket by
// bucket, and with a sharded optimizer every rank owns a part of the parameters, which it alone updates and saves.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/communicator.h"
#include "nn/parameter.h"
#include "train/run_config.h"

namespace t6::train {

// The flat buffers cut into buckets, and each bucket into one slice a rank: rank r owns slice r of every bucket. Slices
// are whole blocks of the norm's partial sums (ops/global_norm.h), so that the norm has the same bits however it is
// cut.
class Partition {
 public:
  // What sizes of flat buffers must be multiples of (ParameterStore::allocate).
  static int64_t granularity(int world);
  // size: of the flat buffers. bucket_bytes: of a bucket of f32, rounded up to the granularity.
  Partition(int64_t size, int world, int64_t bucket_bytes);

  int64_t size() const { return size_; }
  int world() const { return world_; }
  const std::vector<Span>& buckets() const { return buckets_; }
  // Of one bucket, and of all of them in order; neighbours are joined.
  Span owned(const Span& bucket, int rank) const;
  std::vector<Span> owned(int rank) const;

 private:
  int64_t size_;
  int world_;
  std::vector<Span> buckets_;
};

struct DataParallel {
  dist::Communicator* communicator;  // outlives it
  Partition partition;
  Reduction reduction = Reduction::fast;
  bool zero = false;  // masters beside a bf16 copy, moments, and updates, only of what a rank owns

  // One rank.
  static DataParallel alone(const ParameterStore& store);

  int rank() const { return communicator->rank(); }
  int world() const { return communicator->world(); }
  // What this rank updates: everything, or what it owns.
  std::vector<Span> updated() const;
  // Each rank's owned slices of a flat buffer to all ranks; there for what is asked for next.
  void all_gather(const Tensor& flat) const;
};

}  // namespace t6::train
