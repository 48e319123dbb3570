// Reads tensors from an HDF5 file of Hdf5Writer, whoever made it, with exact expectations.
//
// libhdf5 only says, in a child process, where the chunks lie (checkpoint/hdf5_layout.h). They are read by offset here,
// and each is compared with its Fletcher32.
#pragma once

#include <cstdint>
#include <string>

#include "base/io.h"
#include "checkpoint/hdf5_layout.h"
#include "tensor/tensor.h"

namespace t6::checkpoint {

class Hdf5Reader {
 public:
  // Reads through `file`, so that what was hashed is what is read. Error(checkpoint) as read_hdf5_layout.
  explicit Hdf5Reader(io::File file) : file_(std::move(file)), layout_(read_hdf5_layout(file_)) {}

  // Of the dataset `name`, whose dtype is that of `into`, elements [begin, begin + into.numel()) in row-major order,
  // into a tensor on the CPU. Error(checkpoint) naming file, tensor and reason when it is missing, not exactly so, or a
  // checksum fails.
  void read(const std::string& name, const Shape& shape, int64_t begin, const Tensor& into) const;

  // An attribute of the root.
  int64_t get_integer(const std::string& attribute) const;

 private:
  const Hdf5Dataset& find(const std::string& name, DType dtype, const Shape& shape) const;

  io::File file_;
  Hdf5Layout layout_;
};

}  // namespace t6::checkpoint
