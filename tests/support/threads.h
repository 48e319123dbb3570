// Runs a computation with a given number of OpenMP threads, on memory that starts as NaN.
#pragma once

#include <omp.h>

#include <utility>

#include "tensor/storage.h"

namespace t6::test {

template <class F>
auto with_threads(int count, F&& f) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(count);
  memory::release_cached();
  memory::set_poison(true);
  auto result = std::forward<F>(f)();
  memory::set_poison(false);
  omp_set_num_threads(before);
  return result;
}

}  // namespace t6::test
