#include "nn/attention/attention.h"

#include <cstring>

#include "base/error.h"
#include "ops/head_copy.h"

namespace t6 {

Variable split_tokens(const Variable& rows, const AttentionContext& context) {
  return reshape(rows, {context.batch, context.tokens, rows.dim(-1)});
}

int64_t numbers_per_token(const CacheLayout& layout) {
  int64_t n = 0;
  for (const CacheSlot& slot : layout) n += slot.shape.numel();
  return n;
}

LayerCache::LayerCache(const CacheLayout& layout, int64_t batch, int64_t capacity, DType dtype, Device device)
    : batch_(batch), capacity_(capacity) {
  // One block of memory for all slots: it is large enough for huge pages sooner than each slot alone.
  constexpr int64_t kAlignment = 64;
  const auto numbers = [&](const CacheSlot& slot) { return batch * capacity * slot.shape.numel(); };
  int64_t size = 0;
  for (const CacheSlot& slot : layout) size += padded(numbers(slot), kAlignment);
  const Tensor memory = Tensor::zeros({size}, dtype, device);
  int64_t begin = 0;
  for (const CacheSlot& slot : layout) {
    std::vector<int64_t> dims{batch, capacity};
    dims.insert(dims.end(), slot.shape.begin(), slot.shape.end());
    slots_.push_back(memory.slice(begin, Shape(dims)));
    begin += padded(numbers(slot), kAlignment);
  }
}

size_t LayerCache::bytes() const {
  size_t n = 0;
  for (const Tensor& t : slots_) n += t.bytes();
  return n;
}

void LayerCache::append(size_t i, const Tensor& values) const {
  const Tensor& slot = slots_.at(i);
  const int64_t record = slot.numel() / (batch_ * capacity_);
  const int64_t tokens = values.numel() / (batch_ * record);
  T6_CHECK(
      values.dtype() == slot.dtype() && values.numel() == batch_ * tokens * record && length_ + tokens <= capacity_,
      "[cache] expected {} numbers a token of {} and room for {} more tokens, got {} of {} with {} of {} taken", record,
      name_of(slot.dtype()), tokens, to_string(values.shape()), name_of(values.dtype()), length_, capacity_);
  if (tokens == 1 && batch_ > 1) {  // all sequences by one call
    HeadCopyArgs copy;
    copy.rows = batch_;
    copy.dtype = slot.dtype();
    copy.add({.source = values.raw(),
              .destination = slot.slice(length_ * record, {record}).raw(),
              .width = record,
              .source_row = record,
              .destination_row = capacity_ * record});
    head_copy(slot.device(), copy);
    return;
  }
  for (int64_t b = 0; b < batch_; ++b) {
    slot.slice((b * capacity_ + length_) * record, {tokens * record})
        .copy_from(values.slice(b * tokens * record, {tokens * record}));
  }
}

void LayerCache::advance(int64_t tokens) {
  length_ += tokens;
}

}  // namespace t6
