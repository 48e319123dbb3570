// Bytes in use and their peak, counted by a memory pool.
#pragma once

#include <algorithm>
#include <cstddef>

namespace t6::cuda {

// Counted by one thread at a time.
struct PoolUsage {
  size_t in_use = 0, peak = 0;

  void add(size_t bytes) {
    in_use += bytes;
    peak = std::max(peak, in_use);
  }
  void remove(size_t bytes) { in_use -= bytes; }
};

PoolUsage& pool_usage();

}  // namespace t6::cuda
