// The weights of a model in a folder: model.safetensors, or numbered shards with an index that says which tensor is
// where.
//
//   model-00001-of-00002.safetensors ...
//   model.safetensors.index.json   {"metadata": {"total_size": BYTES}, "weight_map": {NAME: FILE, ...}}
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace t6::checkpoint {

inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kWeightsIndex = "model.safetensors.index.json";

// Whether a WeightsWriter writes files of this name.
bool is_export_weights(std::string_view name);

// The file of each tensor, whose name keeps the rule of safetensors.h. Files are bare names that end in .safetensors:
// nothing outside the folder can be named. Error(checkpoint) naming `where`.
std::map<std::string, std::string> parse_weights_index(std::string_view text, const std::string& where);

// All files open, each checked, and the index if there is one: every tensor in exactly one file, the one it is said to
// be in.
class WeightsReader {
 public:
  // Error(checkpoint).
  explicit WeightsReader(const fs::path& folder);

  // Names of all tensors.
  std::set<std::string> names() const;
  // Null when it is not there.
  const StoredTensor* find(const std::string& name) const;
  // In f32, of a name that is there.
  Tensor read(const std::string& name) const;
  const std::deque<SafetensorsReader>& files() const { return files_; }

 private:
  struct Place {
    const SafetensorsReader* file;
    const StoredTensor* tensor;
  };
  void add(const fs::path& path);

  std::deque<SafetensorsReader> files_;
  std::map<std::string, Place> places_;
};

// The files of a model being exported: one, or as many as keep each below shard_bytes of data (but for one tensor that
// is larger). All are open until finish(): at most 1,000, Error(usage).
class WeightsWriter {
 public:
  WeightsWriter(const fs::path& folder, const std::vector<StoredTensor>& tensors, uint64_t shard_bytes);

  // The numbers of tensor i of the list. Error(io).
  void write(size_t i, const Tensor& values);
  // Fsyncs all and writes the index. Error(io).
  void finish();

  // How many files of weights, and the bytes of all files together.
  static size_t files(const std::vector<StoredTensor>& tensors, uint64_t shard_bytes);
  static uint64_t bytes(const std::vector<StoredTensor>& tensors, uint64_t shard_bytes);

 private:
  fs::path folder_;
  std::vector<std::string> names_;  // of the files
  std::deque<SafetensorsWriter> files_;
  struct Place {
    size_t file, index;
  };
  std::vector<Place> places_;
};

}  // namespace t6::checkpoint
