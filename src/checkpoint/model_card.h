// What an export says about the run that made the model: README.md for people, run.json for `t6 import`.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/model_format.h"
#include "checkpoint/safetensors.h"

namespace t6::checkpoint {

inline constexpr const char* kRunFile = "run.json";

// Reads run.json: names and their numbers, words, or one more object of these; no text that could be more than a word
// in a table. Error(checkpoint) naming `where`.
nlohmann::json parse_run_json(std::string_view text, const std::string& where);

struct CardFacts {
  size_t weights_files = 1;
  ModelFormat format = ModelFormat::official;
  StoredType type = StoredType::f32;
  nlohmann::json run = nlohmann::json::object();  // as in run.json; empty: nothing is known
  std::string tokenizer_hash = {};                // empty: exported without tokenizer files
  std::vector<std::string> approximations = {};   // of the format (model_json.h)
};

// The text of README.md: a function of its arguments.
std::string model_card(const ModelConfig& config, const CardFacts& facts);

}  // namespace t6::checkpoint
