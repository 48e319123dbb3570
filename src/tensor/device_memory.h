// What tensors need of a GPU: memory and element-wise moves. For tensor/ alone; everything else uses Tensor and
// gpu.h. Defined in device_memory.cu; all work is on the device's stream.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace t6::cuda {

// Stream-ordered memory, 256-byte aligned. gpu::OutOfMemory when there is none, after freed blocks were given back.
std::byte* allocate(size_t bytes, int device);
void free(std::byte* data, size_t bytes) noexcept;

// See memory::set_poison and check_guards of storage.h.
void set_poison(bool on);
bool guards_intact();

// Bytes between the host and the device, or on the device. Waits when the host receives.
void copy(void* to, Device to_device, const void* from, Device from_device, size_t bytes);

// to = from, or to += from, of n elements; i32 to i32 is copied by copy().
void convert(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n);
void add(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n);
void fill(void* to, DType dtype, double value, int64_t n);

}  // namespace t6::cuda
