// What a config's model costs, for train --dry-run and info: counted, not measured, and nothing is allocated.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "model/counts.h"
#include "train/run_config.h"

namespace t6::cli {

struct ModelFacts {
  std::string name;  // of the config
  ModelConfig model;
  ModelCounts counts;
  MemoryEstimate memory;    // of a training step with the config's micro_batch, precision and recompute
  int64_t micro_batch = 0;  // windows
  Precision precision = Precision::f32;

  int64_t cache_bytes_per_token() const { return 2 * counts.cache_numbers; }  // all layers, in bf16
};

// The memory is that of each of `world` ranks that train on `device`.
ModelFacts model_facts(const RunConfig& config, std::string name, Device device = kCpu, int64_t world = 1);

// For people: (label, text) lines.
std::vector<std::pair<std::string, std::string>> describe(const ModelFacts& facts);
nlohmann::ordered_json to_json(const ModelFacts& facts);

}  // namespace t6::cli
