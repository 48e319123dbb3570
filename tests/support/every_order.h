// Determinism of kernels: the same bits whatever the order in which a GPU runs blocks and threads.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace t6::test {

// Runs `work` twice, which returns fresh tensors, and expects equal bytes. An emulated device runs the last thread and
// block first the second time; a GPU runs as it likes.
template <class Work>
void expect_same_in_every_order(Work&& work) {
  constexpr const char* kOrder = "T6_EMULATION_ORDER";
  const char* held = std::getenv(kOrder);
  const std::string before = held != nullptr ? held : "";
  ::setenv(kOrder, "forward", 1);
  const std::vector<Tensor> first = work();
  ::setenv(kOrder, "reverse", 1);
  const std::vector<Tensor> second = work();
  ::setenv(kOrder, before.c_str(), 1);
  ASSERT_EQ(first.size(), second.size());
  for (size_t i = 0; i < first.size(); ++i) {
    const Tensor a = first[i].to(kCpu), b = second[i].to(kCpu);
    ASSERT_EQ(a.bytes(), b.bytes());
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.bytes()), 0) << "tensor " << i << " depends on the order of threads";
  }
}

}  // namespace t6::test
