// Whether a tokenizer can be the one that shards were made with.
#pragma once

#include <span>
#include <string>

#include "data/tokenizer.h"

namespace t6::cli {

// Error(data) when a shard holds an id that `tokenizer`, read from `file`, does not have. Looks at the samples of
// TokenShard::open in the first `at_most` shards that `globs` match; shards that are not there any more, or cannot be
// opened as they are, say nothing.
void require_ids_of(const data::Tokenizer& tokenizer, const std::string& file, std::span<const std::string> globs,
                    int64_t model_vocabulary, size_t at_most);

}  // namespace t6::cli
