// Whether a tokenizer can be the one that shards were made with.
#pragma once

#include <span>
#include <string>

#include "cli/loaded_model.h"
#include "data/tokenizer.h"

namespace t6::cli {

// Error(data) when a shard holds an id that `tokenizer`, read from `file`, does not have. Looks at the samples of
// TokenShard::open in the first `at_most` shards that `globs` match; shards that are not there any more, or cannot be
// opened as they are, say nothing.
void require_ids_of(const data::Tokenizer& tokenizer, const std::string& file, std::span<const std::string> globs,
                    int64_t model_vocabulary, size_t at_most);

// The tokenizer of a loaded run: the file `given`, or, where that is empty, its data.tokenizer. Error(usage) naming
// `run` when it has none; Error(data) when it has more ids than the model, or the run's shards others than it.
data::Tokenizer tokenizer_of(const LoadedModel& loaded, const std::string& run, const std::string& given);

}  // namespace t6::cli
