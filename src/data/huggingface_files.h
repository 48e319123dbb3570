// The files by which Hugging Face's libraries load a tokenizer, made from its ranks.
//
// What data/huggingface.h reads, the other way round: the merge of a token is the pair that the merges of lower rank
// leave of its bytes, and the merges stand in the order of the ranks. Both ways of merging then give the same ids for
// every text, except that these libraries read "<|endoftext|>" in a text as the special token, where t6 reads text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace t6::data {

struct NamedText {
  std::string name;
  std::string text;
};

// vocab.json, merges.txt, tokenizer.json, tokenizer_config.json (GPT2Tokenizer, no prefix space, `context` as
// model_max_length) and special_tokens_map.json, in this order; the same bytes for the same tokenizer and context.
// Error(data) when they cannot say what the ranks say: a token that merges of lower rank do not leave as two, or one
// that is the text of the end-of-text token.
std::vector<NamedText> huggingface_files(const Tokenizer& tokenizer, int64_t context);

}  // namespace t6::data
