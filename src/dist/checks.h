// What every communicator asks of the arguments of its operations: Error(internal) otherwise.
#pragma once

#include "base/error.h"
#include "tensor/tensor.h"

namespace t6::dist {

inline void require_tensor(const char* what, const Tensor& x, Device device) {
  T6_CHECK(x.defined() && x.device() == device, "[{}] expected a tensor on {}, got {}", what, to_string(device),
           x.defined() ? "one on " + to_string(x.device()) : "an undefined one");
}

inline void require_slices(const char* what, const Tensor& x, int world) {
  T6_CHECK(x.numel() % world == 0, "[{}] expected {} slices of equal size, got {} elements", what, world, x.numel());
}

inline void require_rank(const char* what, int rank, int world) {
  T6_CHECK(rank >= 0 && rank < world, "[{}] expected a rank in [0, {}), got {}", what, world, rank);
}

inline void require_peer(const char* what, int peer, int rank, int world) {
  T6_CHECK(peer >= 0 && peer < world && peer != rank, "[{}] expected another rank in [0, {}), rank {} got {}", what,
           world, rank, peer);
}

inline void require_equal(const char* what, const Tensor& a, const Tensor& b) {
  T6_CHECK(a.dtype() == b.dtype() && a.numel() == b.numel(), "[{}] expected equal tensors, got {} {} and {} {}", what,
           a.numel(), name_of(a.dtype()), b.numel(), name_of(b.dtype()));
}

}  // namespace t6::dist
