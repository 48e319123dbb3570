#include "cli/tokenizer_fit.h"

#include <algorithm>

#include "base/error.h"
#include "data/shard.h"
#include "train/checkpoint_path.h"

namespace t6::cli {

void require_ids_of(const data::Tokenizer& tokenizer, const std::string& file, std::span<const std::string> globs,
                    int64_t model_vocabulary, size_t at_most) {
  if (static_cast<int64_t>(tokenizer.vocab_size()) >= model_vocabulary) return;
  std::vector<data::fs::path> paths;
  try {
    paths = data::expand_globs(globs);
    paths.resize(std::min(paths.size(), at_most));
    for (const data::fs::path& path : paths) data::TokenShard::open(path, static_cast<uint32_t>(model_vocabulary));
  } catch (const Error&) {
    return;
  }
  for (const data::fs::path& path : paths) {
    try {
      data::TokenShard::open(path, tokenizer.vocab_size());
    } catch (const Error& error) {
      fail(ExitCode::data,
           "the tokenizer {} has {} ids, and the shards use others: they were made with another one. {}", file,
           tokenizer.vocab_size(), error.what());
    }
  }
}

data::Tokenizer tokenizer_of(const LoadedModel& loaded, const std::string& run, const std::string& given) {
  const RunConfig& config = loaded.config;
  if (given.empty() && !config.data.tokenizer) {
    fail(ExitCode::usage, "the run {} names no data.tokenizer; give the file with --tokenizer tokenizer.tiktoken", run);
  }
  const std::string file = given.empty() ? train::tokenizer_file(config, loaded.path).string() : given;
  data::Tokenizer tokenizer = data::Tokenizer::load(file);
  const auto vocabulary = static_cast<int64_t>(tokenizer.vocab_size());
  if (vocabulary > config.model.vocab_size) {
    fail(ExitCode::data, "the tokenizer {} has {} ids, but the model of {} only {}; it was trained with another one",
         file, vocabulary, loaded.path.string(), config.model.vocab_size);
  }
  for (const auto* globs : {&config.data.validation, &config.data.train}) {
    require_ids_of(tokenizer, file, *globs, config.model.vocab_size, 1);
  }
  return tokenizer;
}

}  // namespace t6::cli
