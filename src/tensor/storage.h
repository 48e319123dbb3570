// Memory of tensors: one allocation, freed with its last owner. CPU blocks are 64-byte aligned and kept for reuse by
// size; GPU blocks come from the driver's stream-ordered pool (see gpu.h). Both can be poisoned in tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensor/device.h"

namespace t6 {

class Storage {
 public:
  // Uninitialised memory. Error(internal) when the device is not built in or not there, std::bad_alloc when memory is
  // exhausted (on a GPU gpu::OutOfMemory, which is one).
  static std::shared_ptr<Storage> allocate(size_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Storage(std::byte* data, size_t bytes, Device device) : data_(data), bytes_(bytes), device_(device) {}
  std::byte* data_;
  size_t bytes_;
  Device device_;
};

namespace memory {

struct Usage {
  size_t in_use = 0;  // bytes in live CPU storages
  size_t peak = 0;    // highest in_use since start or reset_peak
};
Usage usage();
void reset_peak();
// Gives cached free blocks back to the system.
void release_cached();

// While on, new blocks are filled with 0xFF (a NaN in every float type) and framed by guard bytes.
void set_poison(bool on);
// Error(internal) when a kernel wrote outside a live or freed block since poisoning was turned on.
void check_guards();

}  // namespace memory
}  // namespace t6
