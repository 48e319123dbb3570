// Reading a model from the folder of another program: config.json tells format and sizes, safetensors hold the weights.
// No code of it is run, no pickle read, nothing outside the folder opened.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/model_json.h"
#include "checkpoint/weights_folder.h"

namespace t6::checkpoint {

class ImportedModel {
 public:
  // Opens and checks `folder`: config.json as parse_model_json, names and shapes of all tensors, norms that t6 has
  // without weights (must be ones), the embedding and the head that is tied to it (one of them, or both and equal).
  // Error(checkpoint) with file, tensor and what was expected.
  explicit ImportedModel(const fs::path& folder);

  ModelFormat format() const { return json_.format; }
  const ModelConfig& config() const { return json_.config; }
  const nlohmann::json& run() const { return run_; }  // of run.json; empty without one
  StoredType type() const;                            // of the embedding
  const std::optional<DocumentTokens>& tokens() const { return json_.tokens; }

  // params/<name> of every parameter in f32, each read when it is asked for; this must outlive it. For save().
  State state() const;
  // What it was read from, for the checkpoint's facts: format, files with their hashes, bos_token_id and eos_token_id
  // where config.json has them (document_tokens_of).
  nlohmann::json origin() const;

 private:
  void require_tensors() const;
  void require_ones(const MappedTensor& tensor) const;
  void require_copy(const MappedTensor& tensor) const;

  fs::path folder_;
  WeightsReader weights_;
  ModelJson json_;
  std::vector<MappedTensor> mapped_;
  nlohmann::json run_ = nlohmann::json::object();
};

}  // namespace t6::checkpoint
