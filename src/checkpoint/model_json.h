// config.json of an exported model: which keys say what, in each format. One list of keys is written from and read by.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/model_format.h"
#include "checkpoint/safetensors.h"

namespace t6::checkpoint {

// Why `format` cannot say what `config` is; empty when it can. `approximations`: of these the reasons that only change
// the rounding of the RoPE tables, so that logits differ by it (t6 itself reads them back from a key of its own).
struct Unfit {
  std::vector<std::string> reasons, approximations;
};
Unfit unfit_for(const ModelConfig& config, ModelFormat format);

// The text of config.json. end_of_text: id that begins and ends documents; without it, GPT-2's where the vocabulary has
// it.
std::string model_json(const ModelConfig& config, ModelFormat format, StoredType type,
                       std::optional<int64_t> end_of_text);

struct ModelJson {
  ModelFormat format;
  ModelConfig config;
};
// Reads it. `names`: of the tensors beside it, which tell the kind of an official model. Strict: every key that may
// change the model must be known and as t6 computes. Error(checkpoint) with every reason, naming `where`.
ModelJson parse_model_json(std::string_view text, const std::string& where, const std::set<std::string>& names);

}  // namespace t6::checkpoint
