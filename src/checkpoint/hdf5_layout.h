// Where the tensors of an HDF5 file lie, found out by libhdf5 in a child process.
//
// libhdf5 is not safe on hostile or damaged files: some of them crash it or keep it busy for ever. So it sees a file
// only in a forked child with limits (base/child.h), which tells what it found; the parent checks that against the
// file's size, as the word of a process that may have been taken over.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/io.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace t6::checkpoint {

// A dataset of Hdf5Writer's kind: chunk i holds elements [i * chunk_elements, ...) of each slice of `slice_elements`
// consecutive elements, rounded up to whole chunks, and Fletcher32 behind them.
struct Hdf5Dataset {
  DType dtype = DType::f32;
  Shape shape;                      // [1] for a scalar
  int64_t slice_elements = 1;       // chunks begin anew with each
  int64_t chunk_elements = 1;       // at most slice_elements
  std::vector<uint64_t> addresses;  // of each chunk, slice by slice; inside the file

  uint64_t chunk_bytes() const { return static_cast<uint64_t>(chunk_elements) * size_of(dtype); }
  int64_t chunks_per_slice() const { return (slice_elements + chunk_elements - 1) / chunk_elements; }
};

struct Hdf5Layout {
  std::map<std::string, Hdf5Dataset> datasets;
  std::map<std::string, int64_t> integers;     // attributes of the root
  std::map<std::string, std::string> refused;  // entries that are no such dataset: what was expected
};

// Error(checkpoint) naming the file: it is not HDF5, or libhdf5 ended badly on it. A few milliseconds and some for
// every thousand chunks; more in a process with much memory, which it copies the page tables of.
Hdf5Layout read_hdf5_layout(const io::File& file);

// What the child tells, a JSON document, as far as it can be true of a file of `file_size` bytes; nothing when it is of
// another form.
std::optional<Hdf5Layout> parse_told(const std::string& text, uint64_t file_size);

}  // namespace t6::checkpoint
