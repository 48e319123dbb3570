// Tensors and attributes in an HDF5 file: written once from front to back, or read with exact expectations.
//
// Datasets are chunked (up to 1 MiB), with Fletcher32 on every chunk and no other filter; bf16 is a 16-bit float type
// with 8 exponent bits, so other tools read it. Nothing in a file depends on when or where it was written.
//
// Reading is for files whose hash was verified: libhdf5 is not safe on hostile input, and a hash only proves that file
// and manifest belong together, not who made them. Opened here: hard links on fixed names, no plugins, no external or
// virtual storage, exact types, sizes bounded by the expectation. To read a checkpoint of unknown origin, fork a child
// that sets RLIMIT_AS, RLIMIT_CPU and no_new_privs, drops write access, runs Hdf5Reader and writes each tensor through
// a pipe; the parent treats any end but a clean one as damage. The interface here needs no change for that.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/io.h"
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

class Hdf5Reader {
 public:
  // Reads through `file`, so that what was hashed is what is read. Error(checkpoint) when it is not an HDF5 file.
  explicit Hdf5Reader(io::File file);
  ~Hdf5Reader();
  Hdf5Reader(Hdf5Reader&&) noexcept;

  // Error(checkpoint) naming file, tensor and reason when it is missing, not exactly so, or its checksum fails.
  Tensor read(const std::string& name, DType dtype, const Shape& shape);
  // Of that dataset, whose dtype is that of `into`, elements [begin, begin + into.numel()) in row-major order, into a
  // tensor on the CPU.
  void read(const std::string& name, const Shape& shape, int64_t begin, const Tensor& into);

  int64_t get_integer(const std::string& attribute);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace t6::checkpoint
