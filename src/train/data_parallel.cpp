#include "train/data_parallel.h"

#include "base/error.h"
#include "ops/global_norm.h"

namespace t6::train {

int64_t Partition::granularity(int world) {
  return world == 1 ? 1 : world * kSquaresBlock;
}

Partition::Partition(int64_t size, int world, int64_t bucket_bytes) : size_(size), world_(world) {
  const int64_t unit = granularity(world);
  T6_CHECK(size % unit == 0, "[partition] expected a size that is a multiple of {}, got {}", unit, size);
  const int64_t wanted = bucket_bytes / static_cast<int64_t>(sizeof(float));
  const int64_t bucket = world == 1 ? size : padded(std::max<int64_t>(1, wanted), unit);
  for (int64_t at = 0; at < size; at += bucket) buckets_.push_back({at, std::min(bucket, size - at)});
}

Span Partition::owned(const Span& bucket, int rank) const {
  const int64_t slice = bucket.count / world_;
  return {bucket.begin + rank * slice, slice};
}

std::vector<Span> Partition::owned(int rank) const {
  std::vector<Span> spans;
  for (const Span& bucket : buckets_) {
    const Span slice = owned(bucket, rank);
    if (!spans.empty() && spans.back().end() == slice.begin) {
      spans.back().count += slice.count;
    } else {
      spans.push_back(slice);
    }
  }
  return spans;
}

DataParallel DataParallel::alone(const ParameterStore& store) {
  return {.communicator = &dist::one_rank(), .partition = Partition(store.storage_size(), 1, 0)};
}

std::vector<Span> DataParallel::updated() const {
  if (!zero) return {{0, partition.size()}};
  return partition.owned(rank());
}

void DataParallel::all_gather(const Tensor& flat) const {
  if (world() == 1) return;
  for (const Span& bucket : partition.buckets()) communicator->all_gather(flat.slice(bucket.begin, {bucket.count}));
  communicator->wait();
}

}  // namespace t6::train
