// Tokenizers of Hugging Face's libraries, as far as they are GPT-2's kind of byte-level BPE: tokenizer.json, or
// vocab.json with merges.txt (OpenAI's names: encoder.json with vocab.bpe).
//
// Such a tokenizer becomes a rank file's: ids are ranks, so they must be 0..n-1 in the order of the merges with
// <|endoftext|>, if it is there, at n; and every merge must be the one that merging by rank would end with, which makes
// both ways of merging give the same ids for every text. All others are refused with what does not fit: another
// pre-tokenizer, a normalizer, a prefix space, further special tokens, ids in another order.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "data/tokenizer.h"

namespace t6::data {

// Whether a tokenizer file that begins with this is one of these (JSON), rather than a rank file.
bool is_huggingface(std::string_view text);

// From the text of tokenizer.json or of vocab.json, then with merges.txt read from the same folder. Error(data) naming
// `path` and what does not fit.
Tokenizer read_huggingface(std::string_view text, const std::filesystem::path& path);

// From both texts of the two-file form; `name` stands for the files in messages.
Tokenizer parse_vocab_and_merges(std::string_view vocab, std::string_view merges, const std::string& name);
// From the text of a tokenizer.json.
Tokenizer parse_tokenizer_json(std::string_view text, const std::string& name);

}  // namespace t6::data
