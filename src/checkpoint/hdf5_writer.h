// Writes tensors and attributes into an HDF5 file, once from front to back.
//
// Datasets are chunked (up to 1 MiB), with Fletcher32 on every chunk and no other filter; bf16 is a 16-bit float type
// with 8 exponent bits, so other tools read it. Nothing in a file depends on when or where it was written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace t6::checkpoint {

// Names are parts separated by '/': printable ASCII without space, none empty, "." or "..", at most 255 bytes in all.
bool is_valid_name(std::string_view name);

// The chunk of a dataset: consecutive rows of at most 1 MiB in all, or a part of one row.
Shape chunk_shape(DType dtype, const Shape& shape);
// Upper bound of what a dataset takes in a file, with its share of the metadata.
uint64_t stored_bytes(DType dtype, const Shape& shape);

class Hdf5Writer {
 public:
  // Error(io) when the file cannot be created or exists.
  explicit Hdf5Writer(const std::filesystem::path& path);
  // Without close(): writes nothing more and leaves a file that is not complete.
  ~Hdf5Writer();

  // Returns the XXH3-128 of the elements in row-major order (32 hex digits). Error(io) when a write fails; then
  // only destruction is left. Error(internal) for a name that is taken or not valid, or a tensor without elements.
  std::string write(const std::string& name, const Tensor& tensor);

  // An attribute of the root.
  void set_attribute(const std::string& name, int64_t value);

  struct Closed {
    uint64_t bytes = 0;
    std::string xxh3;  // of the whole file, read back after fsync
  };
  // Closes, fsyncs and hashes. Error(io).
  Closed close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace t6::checkpoint
