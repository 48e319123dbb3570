// Units of uneven work over the threads, each thread with scratch memory of its own.
#pragma once

#include <omp.h>

#include <algorithm>

#include "tensor/storage.h"

namespace t6::cpu {

// Scratch memory of one thread, handed out in 64-byte aligned pieces.
class Scratch {
 public:
  explicit Scratch(std::byte* data) : data_(data) {}
  template <class S>
  S* take(int64_t count) {
    S* piece = reinterpret_cast<S*>(data_);
    data_ += bytes<S>(count);
    return piece;
  }
  // What take(count) uses up.
  template <class S>
  static int64_t bytes(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(S)) + 63) / 64 * 64;
  }

 private:
  std::byte* data_;
};

// Calls f(unit, scratch) for every unit in [0, n) on all threads; scratch is `bytes` of the thread's own. Units are
// handed out in order as threads come free, so f must give the same result on any thread. f must not throw.
template <class F>
void for_each_unit(int64_t n, int64_t bytes, F&& f) {
  const int threads = static_cast<int>(std::clamp<int64_t>(n, 1, omp_get_max_threads()));
  const auto storage = Storage::allocate(static_cast<size_t>(bytes * threads), kCpu);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Scratch scratch(storage->data() + omp_get_thread_num() * bytes);
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < n; ++unit) f(unit, scratch);
  }
}

}  // namespace t6::cpu
