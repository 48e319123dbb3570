// manifest.json: what a checkpoint folder must hold, byte for byte. It ends with the hash of its own text, so a change
// anywhere in it is found, too.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace t6::checkpoint {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr uint64_t kMaxManifestBytes = uint64_t{16} << 20;

// "rank-00000.h5"; no other payload names exist.
std::string rank_file_name(int rank);

struct ManifestFile {
  std::string name;  // rank_file_name of its place in the list
  uint64_t bytes = 0;
  std::string xxh3;  // XXH3-128 of the file, 32 hex digits
};

// Elements [begin, begin + count) of a flattened tensor.
struct ManifestPart {
  int rank = 0;  // whose file holds them
  int64_t begin = 0, count = 0;
  std::string xxh3;  // of the elements in row-major order
};

struct ManifestTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::vector<ManifestPart> parts;  // by begin: every element is in one
};

// Tensors are named as datasets are, shorter and without '@', which stands before the beginning of a part.
bool is_valid_tensor_name(std::string_view name);
// How elements [begin, begin + count) of a tensor are stored: all under its name in its shape, others as NAME@BEGIN
// [count].
std::string dataset_name(const std::string& tensor, const Shape& shape, int64_t begin, int64_t count);
Shape dataset_shape(const Shape& shape, int64_t count);

struct Manifest {
  int64_t step = 0;
  int world = 1;
  std::vector<ManifestFile> files;  // one a rank
  std::vector<ManifestTensor> tensors;
  nlohmann::json scalars = nlohmann::json::object();
  nlohmann::json facts = nlohmann::json::object();
  std::string xxh3;  // of its own text; of a parsed one

  uint64_t bytes() const;  // of all files
};

// The text of manifest.json. Error(internal) when it could not be read back as the same: numbers that are not finite,
// nesting over 16, more than 16 MiB, parts that do not make up their tensor.
std::string to_text(const Manifest& manifest);

// Strict: bounded size, depth and count; known keys, each once; exact types; names as above; sizes that fit the files;
// every element of every tensor in exactly one part. Reads format version 1 as well, of one part a tensor.
// Error(checkpoint) with the reason; `where` names the file.
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace t6::checkpoint
