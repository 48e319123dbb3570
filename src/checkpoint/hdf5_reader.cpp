#include "checkpoint/hdf5_reader.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "checkpoint/fletcher32.h"
#include "checkpoint/hdf5_writer.h"

namespace t6::checkpoint {
namespace {

// The chunk's elements, behind which its checksum lies.
void read_chunk(const io::File& file, const std::string& name, uint64_t address, std::span<std::byte> stored) {
  file.read_at(stored, address);
  const std::span<std::byte> elements = stored.first(stored.size() - sizeof(uint32_t));
  static_assert(std::endian::native == std::endian::little);
  uint32_t checksum;
  std::memcpy(&checksum, elements.data() + elements.size(), sizeof checksum);
  if (fletcher32(elements) != checksum) {
    fail(ExitCode::checkpoint, "cannot read {} in {}: the checksum of the chunk at byte {} is wrong", name,
         file.path().string(), address);
  }
}

}  // namespace

const Hdf5Dataset& Hdf5Reader::find(const std::string& name, DType dtype, const Shape& shape) const {
  const std::string path = file_.path().string();
  // A folder on the way may be what was refused.
  for (size_t slash = name.find('/');; slash = name.find('/', slash + 1)) {
    const auto refused = layout_.refused.find(name.substr(0, slash));
    if (refused != layout_.refused.end()) {
      fail(ExitCode::checkpoint, "{} in {}: expected {}", name, path, refused->second);
    }
    if (slash == std::string::npos) break;
  }
  const auto found = layout_.datasets.find(name);
  if (found == layout_.datasets.end()) fail(ExitCode::checkpoint, "cannot find {} in {}", name, path);
  const Shape expected = shape.rank() == 0 ? Shape{1} : shape;
  if (found->second.dtype != dtype || found->second.shape != expected) {
    fail(ExitCode::checkpoint, "{} in {}: expected {} {}, got {} {}", name, path, name_of(dtype), to_string(expected),
         name_of(found->second.dtype), to_string(found->second.shape));
  }
  return found->second;
}

void Hdf5Reader::read(const std::string& name, const Shape& shape, int64_t begin, const Tensor& into) const {
  const int64_t count = into.numel();
  T6_CHECK(is_valid_name(name) && begin >= 0 && count > 0 && begin <= shape.numel() - count,
           "[checkpoint] cannot read [{}, {}) of \"{}\" {}", begin, begin + count, name, to_string(shape));
  const Hdf5Dataset& dataset = find(name, into.dtype(), shape);
  const auto width = static_cast<int64_t>(size_of(into.dtype()));
  std::vector<std::byte> stored(dataset.chunk_bytes() + sizeof(uint32_t));
  auto* to = static_cast<std::byte*>(into.raw());
  for (int64_t at = begin; at < begin + count;) {
    const int64_t slice = at / dataset.slice_elements, chunk = at % dataset.slice_elements / dataset.chunk_elements;
    const int64_t first = slice * dataset.slice_elements + chunk * dataset.chunk_elements;
    const int64_t end = std::min({first + dataset.chunk_elements, (slice + 1) * dataset.slice_elements, begin + count});
    const auto index = static_cast<size_t>(slice * dataset.chunks_per_slice() + chunk);
    read_chunk(file_, name, dataset.addresses[index], stored);
    std::memcpy(to, stored.data() + (at - first) * width, static_cast<size_t>((end - at) * width));
    to += (end - at) * width;
    at = end;
  }
}

int64_t Hdf5Reader::get_integer(const std::string& attribute) const {
  const auto found = layout_.integers.find(attribute);
  if (found == layout_.integers.end()) {
    fail(ExitCode::checkpoint, "{} has no attribute {} that is one 64-bit integer", file_.path().string(), attribute);
  }
  return found->second;
}

}  // namespace t6::checkpoint
