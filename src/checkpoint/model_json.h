// config.json of an exported model: which keys say what, in each format. One list of keys is written from and read by.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
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

// The ids that begin and end a document: bos_token_id and eos_token_id, null where there is none.
struct DocumentTokens {
  std::optional<int64_t> begin, end;
};
// What `object` says of them: nothing when it has neither key; none for what is no id of the vocabulary.
std::optional<DocumentTokens> document_tokens_of(const nlohmann::json& object, int64_t vocab_size);
void add_document_tokens(const DocumentTokens& tokens, nlohmann::json& object);

// The text of config.json. tokens: not known, they are GPT-2's where the vocabulary has it. The authors' format does
// not say them.
std::string model_json(const ModelConfig& config, ModelFormat format, StoredType type,
                       const std::optional<DocumentTokens>& tokens);

struct ModelJson {
  ModelFormat format;
  ModelConfig config;
  std::optional<DocumentTokens> tokens;  // where it says them
};
// Reads it. `names`: of the tensors beside it, which tell the kind of an official model. Strict: every key that may
// change the model must be known and as t6 computes. Error(checkpoint) with every reason, naming `where`.
ModelJson parse_model_json(std::string_view text, const std::string& where, const std::set<std::string>& names);

}  // namespace t6::checkpoint
