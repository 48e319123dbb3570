// Exporting a checkpoint: its weights, config.json, run.json, README.md and what the caller adds, in a folder that
// appears whole or not at all. One tensor is in memory at a time. The same checkpoint gives the same bytes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_card.h"
#include "checkpoint/model_format.h"
#include "checkpoint/model_json.h"
#include "checkpoint/safetensors.h"

namespace t6::checkpoint {

struct ExportOptions {
  ModelFormat format = ModelFormat::official;
  StoredType type = StoredType::f32;
  uint64_t shard_bytes = 5'000'000'000;
  bool replace = false;                           // an older export of that name
  bool approximate = false;                       // also where RoPE tables are rounded in another way
  nlohmann::json run = nlohmann::json::object();  // run.json; empty: none is written
  std::vector<std::pair<std::string, std::string>> tokenizer_files = {};  // names and texts
  std::string tokenizer_hash = {};
  std::optional<DocumentTokens> tokens = {};
  std::function<void(uint64_t written, uint64_t all)> progress = {};  // bytes of weights
};

struct Exported {
  uint64_t bytes = 0;  // of weights
  size_t tensors = 0;
  std::vector<std::string> files = {};
};

// Exports the checkpoint `step` (DIR/step-...), whose model is `config`, to the folder `target`. Error(usage) when the
// format cannot say what the model is, with every reason, or `target` is in the way; Error(checkpoint) when the
// checkpoint is damaged; Error(io). In these cases nothing of `target` has changed (only if the very last fsync fails
// the new one is there).
Exported export_model(const fs::path& step, const ModelConfig& config, const fs::path& target,
                      const ExportOptions& options);

}  // namespace t6::checkpoint
