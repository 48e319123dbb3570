#include "checkpoint/import_model.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/io.h"
#include "checkpoint/foreign_file.h"
#include "checkpoint/model_card.h"

namespace t6::checkpoint {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 20;
constexpr size_t kDifferencesShown = 12;

fs::path existing(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    fail(ExitCode::checkpoint, "{}: {}; expected the folder of an exported model", folder.string(),
         fs::exists(folder, error) ? "is no folder" : "no such folder");
  }
  return folder;
}

// Every layer has tensors of its own: what could not be there is refused before a list of it is made.
const ModelJson& with_layers(const ModelJson& json, size_t tensors, const fs::path& folder) {
  if (static_cast<size_t>(json.config.layers) >= tensors) {
    fail(ExitCode::checkpoint, "{} says {} layers, but only {} tensors are there: more is missing",
         (folder / "config.json").string(), json.config.layers, tensors);
  }
  return json;
}

// Of the tied pair either name may be the stored one: that is then the tensor itself.
std::vector<MappedTensor> with_stored_names(std::vector<MappedTensor> mapped, const WeightsReader& weights) {
  const auto copy = std::find_if(mapped.begin(), mapped.end(), [](const MappedTensor& tensor) { return tensor.copy; });
  const auto first =
      std::find_if(mapped.begin(), copy, [&](const MappedTensor& other) { return other.source == copy->source; });
  if (weights.find(first->name) == nullptr && weights.find(copy->name) != nullptr) {
    first->name = copy->name;
    mapped.erase(copy);
  }
  return mapped;
}

}  // namespace

ImportedModel::ImportedModel(const fs::path& folder)
    : folder_(existing(folder)),
      weights_(folder_),
      json_(parse_model_json(read_plain_file(folder_ / "config.json", kMaxTextBytes),
                             (folder_ / "config.json").string(), weights_.names())),
      mapped_(with_stored_names(map_tensors(with_layers(json_, weights_.names().size(), folder_).config, json_.format),
                                weights_)) {
  require_tensors();
  for (const MappedTensor& tensor : mapped_) {
    if (tensor.source.empty()) require_ones(tensor);
    if (tensor.copy && weights_.find(tensor.name) != nullptr) require_copy(tensor);
  }
  if (io::exists(folder_ / kRunFile)) {
    run_ = parse_run_json(read_plain_file(folder_ / kRunFile, kMaxTextBytes), (folder_ / kRunFile).string());
  }
}

StoredType ImportedModel::type() const {
  return weights_.find(mapped_.front().name)->type;
}

void ImportedModel::require_tensors() const {
  std::vector<std::string> differences;
  std::set<std::string> left = weights_.names();
  for (const MappedTensor& tensor : mapped_) {
    left.erase(tensor.name);
    const StoredTensor* stored = weights_.find(tensor.name);
    if (stored == nullptr) {
      if (!tensor.copy) differences.push_back(fmt::format("{} {} is missing", tensor.name, to_string(tensor.shape)));
    } else if (!(stored->shape == tensor.shape)) {
      differences.push_back(
          fmt::format("{}: expected {}, got {}", tensor.name, to_string(tensor.shape), to_string(stored->shape)));
    }
  }
  for (const std::string& name : left) differences.push_back(fmt::format("{} is not in such a model", name));
  if (differences.empty()) return;
  std::string text;
  for (size_t i = 0; i < std::min(differences.size(), kDifferencesShown); ++i) text += "\n  " + differences[i];
  if (differences.size() > kDifferencesShown) {
    text += fmt::format("\n  and {} more", differences.size() - kDifferencesShown);
  }
  fail(ExitCode::checkpoint, "the tensors in {} are not those that its config.json describes, {} of {}:{}",
       folder_.string(), json_.config.kind_name(), name_of(json_.format), text);
}

void ImportedModel::require_ones(const MappedTensor& tensor) const {
  const Tensor values = weights_.read(tensor.name);
  const float* value = values.data<float>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    if (value[i] == 1) continue;
    fail(ExitCode::checkpoint, "{}: {} has learned weights (number {} is {}); t6's norms have none, so all must be 1",
         folder_.string(), tensor.name, i, value[i]);
  }
}

void ImportedModel::require_copy(const MappedTensor& tensor) const {
  const auto first = std::find_if(mapped_.begin(), mapped_.end(),
                                  [&](const MappedTensor& other) { return other.source == tensor.source; });
  const Tensor a = weights_.read(first->name), b = weights_.read(tensor.name);
  if (std::memcmp(a.raw(), b.raw(), a.bytes()) == 0) return;
  fail(ExitCode::checkpoint, "{}: {} differs from {}; t6's head is tied to the embedding, so both must be equal",
       folder_.string(), tensor.name, first->name);
}

State ImportedModel::state() const {
  State state;
  for (const MappedTensor& tensor : mapped_) {
    if (tensor.source.empty() || tensor.copy) continue;
    const MappedTensor* mapped = &tensor;
    state.tensors.push_back({.name = "params/" + tensor.source,
                             .dtype = DType::f32,
                             .shape = tensor.shape,
                             .get = [this, mapped] { return from_format(*mapped, weights_.read(mapped->name)); },
                             .set = {}});
  }
  return state;
}

nlohmann::json ImportedModel::origin() const {
  nlohmann::json files = nlohmann::json::array();
  for (const SafetensorsReader& file : weights_.files()) {
    files.push_back({{"name", file.path().filename().string()},
                     {"bytes", fs::file_size(file.path())},
                     {"xxh3", io::hash_file(file.path())}});
  }
  nlohmann::json origin = {{"format", name_of(json_.format)}, {"files", files}};
  if (json_.tokens) add_document_tokens(*json_.tokens, origin);
  return origin;
}

}  // namespace t6::checkpoint
