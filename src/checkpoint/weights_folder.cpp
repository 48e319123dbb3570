#include "checkpoint/weights_folder.h"

#include <algorithm>

#include "base/error.h"
#include "base/io.h"
#include "base/strict_json.h"
#include "checkpoint/foreign_file.h"
#include "checkpoint/manifest.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxIndexBytes = uint64_t{32} << 20;
constexpr size_t kMaxFiles = 1000;

bool is_weights_name(const std::string& name) {
  constexpr std::string_view kEnding = ".safetensors";
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  return name.size() > kEnding.size() && name.size() <= 200 && name.ends_with(kEnding) && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), plain);
}

// The tensors of each shard, in order.
std::vector<std::vector<StoredTensor>> divided(const std::vector<StoredTensor>& tensors, uint64_t shard_bytes) {
  std::vector<std::vector<StoredTensor>> shards(1);
  uint64_t taken = 0;
  for (const StoredTensor& tensor : tensors) {
    const uint64_t bytes = static_cast<uint64_t>(tensor.shape.numel()) * size_of(tensor.type);
    if (taken > 0 && bytes > shard_bytes - std::min(shard_bytes, taken)) {
      shards.emplace_back();
      taken = 0;
    }
    shards.back().push_back(tensor);
    taken += bytes;
  }
  return shards;
}

std::string index_text(const std::vector<std::vector<StoredTensor>>& shards, const std::vector<std::string>& names) {
  uint64_t bytes = 0;
  json map = json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const StoredTensor& tensor : shards[i]) {
      map[tensor.name] = names[i];
      bytes += static_cast<uint64_t>(tensor.shape.numel()) * size_of(tensor.type);
    }
  }
  return json({{"metadata", {{"total_size", bytes}}}, {"weight_map", map}}).dump(2) + "\n";
}

std::vector<std::string> shard_names(size_t count) {
  if (count == 1) return {kWeightsFile};
  std::vector<std::string> names;
  for (size_t i = 1; i <= count; ++i) names.push_back(fmt::format("model-{:05}-of-{:05}.safetensors", i, count));
  return names;
}

}  // namespace

bool is_export_weights(std::string_view name) {
  constexpr std::string_view kShard = "model-#####-of-#####.safetensors";
  if (name == kWeightsFile || name == kWeightsIndex) return true;
  return std::equal(name.begin(), name.end(), kShard.begin(), kShard.end(),
                    [](char c, char rule) { return rule == '#' ? c >= '0' && c <= '9' : c == rule; });
}

std::map<std::string, std::string> parse_weights_index(std::string_view text, const std::string& where) {
  const json index = parse_strict_json(text, where, ExitCode::checkpoint, {.depth = 8, .bytes = kMaxIndexBytes});
  if (!index.is_object()) fail(ExitCode::checkpoint, "{}: expected an object", where);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty()) {
    fail(ExitCode::checkpoint, "{}: expected weight_map, an object of tensors and their files", where);
  }
  for (const auto& item : index.items()) {
    if (item.key() != "weight_map" && item.key() != "metadata") {
      fail(ExitCode::checkpoint, "{}: unknown key {}", where, shown(item.key()));
    }
  }
  std::map<std::string, std::string> files;
  std::set<std::string> names;
  for (const auto& item : map->items()) {
    require_tensor_name(item.key(), where + ": weight_map");
    if (!item.value().is_string() || !is_weights_name(item.value().get<std::string>())) {
      fail(ExitCode::checkpoint,
           "{}: weight_map: {}: expected the bare name of a .safetensors file beside the index, got {}", where,
           item.key(), shown(item.value()));
    }
    names.insert(item.value().get<std::string>());
    if (names.size() > kMaxFiles) fail(ExitCode::checkpoint, "{}: names more than {} files", where, kMaxFiles);
    files.emplace(item.key(), item.value().get<std::string>());
  }
  return files;
}

WeightsReader::WeightsReader(const fs::path& folder) {
  const bool one = io::exists(folder / kWeightsFile), index = io::exists(folder / kWeightsIndex);
  if (one && index) {
    fail(ExitCode::checkpoint, "{} holds both {} and {}; one of them is left over: remove it", folder.string(),
         kWeightsFile, kWeightsIndex);
  }
  if (one) {
    add(folder / kWeightsFile);
    return;
  }
  if (!index) {
    std::error_code ignored;
    if (fs::is_directory(folder / "checkpoints", ignored) || io::exists(folder / kManifestName)) {
      fail(ExitCode::checkpoint,
           "{} holds no weights of another program: it is a run folder of t6 or a checkpoint in one; use it directly, "
           "without t6 import",
           folder.string());
    }
    const char* pickles =
        io::exists(folder / "pytorch_model.bin") || io::exists(folder / "pytorch_model.bin.index.json")
            ? "; its pytorch_model.bin is a pickle, which can run code and is never read: load the model in Python "
              "and write it beside its config.json by safetensors.torch.save_model(model, \"model.safetensors\")"
            : "";
    fail(ExitCode::checkpoint, "{} holds no weights: neither {} nor {}{}", folder.string(), kWeightsFile, kWeightsIndex,
         pickles);
  }
  const fs::path path = folder / kWeightsIndex;
  const std::map<std::string, std::string> said =
      parse_weights_index(read_plain_file(path, kMaxIndexBytes), path.string());
  std::set<std::string> names;
  for (const auto& [tensor, file] : said) {
    if (names.insert(file).second) add(folder / file);
  }
  for (const auto& [tensor, file] : said) {
    const auto place = places_.find(tensor);
    if (place == places_.end() || place->second.file->path().filename() != file) {
      fail(ExitCode::checkpoint, "{}: tensor {} is not in {}", path.string(), tensor, file);
    }
  }
  for (const auto& [tensor, place] : places_) {
    if (said.find(tensor) == said.end()) {
      fail(ExitCode::checkpoint, "{}: tensor {} of {} is not in the weight_map", path.string(), tensor,
           place.file->path().filename().string());
    }
  }
}

void WeightsReader::add(const fs::path& path) {
  const SafetensorsReader& file = files_.emplace_back(path);
  for (const StoredTensor& tensor : file.tensors()) {
    const auto [place, added] = places_.emplace(tensor.name, Place{&file, &tensor});
    if (!added) {
      fail(ExitCode::checkpoint, "tensor {} is in two files: {} and {}", tensor.name,
           place->second.file->path().string(), path.string());
    }
  }
}

std::set<std::string> WeightsReader::names() const {
  std::set<std::string> names;
  for (const auto& [name, place] : places_) names.insert(name);
  return names;
}

const StoredTensor* WeightsReader::find(const std::string& name) const {
  const auto place = places_.find(name);
  return place == places_.end() ? nullptr : place->second.tensor;
}

Tensor WeightsReader::read(const std::string& name) const {
  const Place& place = places_.at(name);
  return place.file->read(*place.tensor);
}

WeightsWriter::WeightsWriter(const fs::path& folder, const std::vector<StoredTensor>& tensors, uint64_t shard_bytes)
    : folder_(folder) {
  const std::vector<std::vector<StoredTensor>> shards = divided(tensors, shard_bytes);
  if (shards.size() > kMaxFiles) {
    fail(ExitCode::usage, "--shard-size makes {} files, at most {} are written; choose a larger one", shards.size(),
         kMaxFiles);
  }
  names_ = shard_names(shards.size());
  for (size_t i = 0; i < shards.size(); ++i) {
    for (size_t j = 0; j < shards[i].size(); ++j) places_.push_back({i, j});
    files_.emplace_back(folder / names_[i], shards[i]);
  }
}

void WeightsWriter::write(size_t i, const Tensor& values) {
  files_[places_.at(i).file].write(places_[i].index, values);
}

void WeightsWriter::finish() {
  std::vector<std::vector<StoredTensor>> shards;
  for (SafetensorsWriter& file : files_) {
    file.finish();
    shards.push_back(file.tensors());
  }
  if (shards.size() == 1) return;
  io::File index = io::File::create_new(folder_ / kWeightsIndex);
  index.write_all(index_text(shards, names_));
  index.sync();
  index.close();
}

size_t WeightsWriter::files(const std::vector<StoredTensor>& tensors, uint64_t shard_bytes) {
  return divided(tensors, shard_bytes).size();
}

uint64_t WeightsWriter::bytes(const std::vector<StoredTensor>& tensors, uint64_t shard_bytes) {
  const std::vector<std::vector<StoredTensor>> shards = divided(tensors, shard_bytes);
  uint64_t bytes = shards.size() == 1 ? 0 : index_text(shards, shard_names(shards.size())).size();
  for (const std::vector<StoredTensor>& shard : shards) bytes += SafetensorsWriter::file_bytes(shard);
  return bytes;
}

}  // namespace t6::checkpoint
