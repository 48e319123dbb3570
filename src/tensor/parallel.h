// Loops over the cores. The split depends on the thread count only, never on timing.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace t6 {

// Calls f(begin, end) for consecutive ranges that cover [0, n), one a thread; in the calling thread when n <= grain or
// inside another parallel loop. f must not throw.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  const int64_t threads = std::min<int64_t>(omp_get_max_threads(), (n + grain - 1) / std::max<int64_t>(grain, 1));
  if (threads <= 1 || omp_in_parallel()) {
    if (n > 0) f(int64_t{0}, n);
    return;
  }
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    const int64_t t = omp_get_thread_num(), count = omp_get_num_threads();
    const int64_t begin = n * t / count, end = n * (t + 1) / count;
    if (begin < end) f(begin, end);
  }
}

}  // namespace t6
