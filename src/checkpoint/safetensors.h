// The safetensors format: tensors by name in one file, behind a JSON header, and nothing that could be run.
//
//   u64 little-endian n <= 100,000,000 | n bytes of JSON | data
//   {"__metadata__": {"format": "pt"}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
//
// Offsets count from the end of the header. Tensors fill the data without gap or overlap, to its last byte.
// https://github.com/huggingface/safetensors
//
// Read as files of strangers: every number is checked before it is used, nothing is mapped into memory, and what breaks
// a rule is Error(checkpoint) naming file, tensor and what was expected.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/io.h"
#include "tensor/tensor.h"

namespace t6::checkpoint {

namespace fs = std::filesystem;

// What numbers are stored as. f16 is read, not written.
enum class StoredType : uint8_t { f32, bf16, f16 };
std::string_view name_of(StoredType type);  // "F32", as in the header
constexpr uint64_t size_of(StoredType type) {
  return type == StoredType::f32 ? 4 : 2;
}

struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  Shape shape;                  // extents >= 1
  uint64_t begin = 0, end = 0;  // of its bytes in the data
};

// Error(checkpoint) naming `where` unless `name` is 1 to 512 printable characters of ASCII without a space.
void require_tensor_name(const std::string& name, const std::string& where);

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

// The tensors of a header whose file has `data_bytes` behind it, by position. Error(checkpoint) naming `where`.
std::vector<StoredTensor> parse_safetensors_header(std::string_view json, uint64_t data_bytes,
                                                   const std::string& where);

// A file that was checked as a whole and stays open.
class SafetensorsReader {
 public:
  // Error(checkpoint), also when it is missing.
  explicit SafetensorsReader(const fs::path& path);

  const fs::path& path() const { return file_.path(); }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  // One tensor in f32: bf16 and f16 exactly. Error(checkpoint) for a number that is not finite.
  Tensor read(const StoredTensor& tensor) const;

 private:
  io::File file_;
  uint64_t data_begin_ = 0;
  std::vector<StoredTensor> tensors_;
};

// A file written tensor by tensor, in any order; the same tensors give the same bytes.
class SafetensorsWriter {
 public:
  // What the file will hold, in this order. Name, type and shape count, begin and end are set. Creates the file and
  // writes the header. Error(io).
  SafetensorsWriter(const fs::path& path, std::vector<StoredTensor> tensors);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  // The numbers of tensor i, from f32, rounded to its type. Each once. Error(io).
  void write(size_t i, const Tensor& values);
  // Fsyncs and closes; every tensor was written. Error(io).
  void finish();

  // Bytes of such a file.
  static uint64_t file_bytes(const std::vector<StoredTensor>& tensors);

 private:
  io::File file_;
  uint64_t data_begin_ = 0;
  std::vector<StoredTensor> tensors_;
  std::vector<bool> written_;
};

}  // namespace t6::checkpoint
