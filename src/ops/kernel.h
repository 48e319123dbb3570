// A kernel's two implementations behind one typed call.
//
// An operation family declares plain argument structs (pointers and sizes) and, per struct, a CPU function in x.cpp and
// a CUDA function in x.cu; a constexpr Kernel pairs them. Wrong arguments do not compile, a missing backend throws.
//
// What an operation in this folder does, in order: check shapes and dtypes with T6_CHECK("[op] expected ..., got ..."),
// allocate outputs, run the kernel, and call record() - always, also when nothing is recorded, because recomputed
// segments learn from it which leaves an operation reads.
#pragma once

#include "base/error.h"
#include "base/profile.h"
#include "tensor/device.h"
#include "tensor/gpu.h"

namespace t6 {

// Floating-point operations of a call, and the fewest bytes it moves to and from memory, for profiles; an overload
// beside an argument struct says more than none.
template <class Args>
double flops_of(const Args&) {
  return 0;
}
template <class Args>
double bytes_of(const Args&) {
  return 0;
}

template <class Args>
struct Kernel {
  const char* name;
  void (*cpu)(const Args&);
  void (*cuda)(const Args&);  // null in a build without CUDA; runs on the current stream

  void operator()(Device device, const Args& args) const {
    auto* function = device.is_cuda() ? cuda : cpu;
    T6_CHECK(function != nullptr, "{}: not built for {}", name, to_string(device));
    if (device.is_cpu()) {
      const profile::Scope scope(name, {flops_of(args), bytes_of(args)});
      function(args);
    } else {
      const gpu::Range range(name);
      const profile::Scope scope(name, {flops_of(args), bytes_of(args)}, &gpu::clock());
      function(args);
    }
  }
};

#if defined(T6_HAVE_CUDA)
#define T6_CUDA_KERNEL(function) (&function)
#else
#define T6_CUDA_KERNEL(function) nullptr
#endif

}  // namespace t6
