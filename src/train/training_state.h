// What a checkpoint of a training run holds: parameters and moments under the model's names, where the run stands, and
// the facts that say whether another start goes on with the same run.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/checkpoint.h"
#include "data/shard.h"
#include "data/token_hash.h"
#include "model/transformer.h"
#include "train/optimizer.h"
#include "train/run_config.h"

namespace t6::train {

// params/<name>, without padding, whole; for loading alone: a model to train, to evaluate or to generate with, which
// may be allocated for inference: what is loaded is then rounded to its dtype. Compute copies are filled, too.
checkpoint::State model_state(const ParameterStore& store);

// Of that and of adamw/m/<name>, adamw/v/<name> this rank's share: with a sharded optimizer what it owns,
// otherwise one stretch of the flat buffers. store and optimizer must outlive it.
checkpoint::State training_state(const ParameterStore& store, const AdamW& optimizer, const DataParallel& parallel);
checkpoint::State training_state(const ParameterStore& store, const AdamW& optimizer);  // of one rank: everything

// After training_state() was loaded on every rank: what each of them keeps of the others' parts, and the copy that
// products read, of all.
void spread_loaded(const ParameterStore& store, const AdamW& optimizer, const DataParallel& parallel);

// Error(usage), alike on all ranks, when a checkpoint of these states, each rank's own, would be cut into more parts
// than its manifest takes; it names train.bucket_mb.
void require_manifest_fits(const checkpoint::State& state, const DataParallel& parallel,
                           const checkpoint::Peers& peers);

// Where a run stands: the scalars of its checkpoint.
struct RunPosition {
  struct Validation {
    int64_t step = 0;
    double loss = 0;  // nats a token
  };
  int64_t step = 0;  // steps done, with those that were not applied
  uint64_t tokens = 0;
  data::TokenHash consumed;              // of these tokens
  double loss = 0;                       // of the last step that was applied
  std::optional<Validation> validation;  // the last one
};
nlohmann::json to_scalars(const RunPosition& position);
// Error(checkpoint) when they are not those of a training run.
RunPosition position_of(const checkpoint::Loaded& loaded);

// "3 shards of 1,200,000 tokens, fingerprint 0123456789abcdef": the same wherever and in whatever form the shards lie.
std::string describe_shards(const data::ShardSet& shards);

// For SaveOptions::facts: the resolved config; number, tokens and fingerprint of the training shards; what the bits of
// a result depend on in `environment` (of describe_environment): build, processor, libraries, threads, ranks.
nlohmann::json run_facts(const RunConfig& config, const data::ShardSet& shards,
                         const nlohmann::ordered_json& environment);

// The config a checkpoint was saved under. Error(checkpoint) when the facts hold none, or one that cannot be.
RunConfig config_of(const nlohmann::json& facts, const std::filesystem::path& path);

// "model.rope_theta: 10000 -> 500000" for every key of the model that differs, but how its weights were initialised.
std::vector<std::string> changed_model_keys(const RunConfig& before, const RunConfig& now);

// Compares the facts of this start with those of the checkpoint it would go on from.
//   must be equal      the model, run.seed, data.sampling, train.global_batch, train.accumulation, the training tokens
//                      shard by shard (not where they lie); train.micro_batch where it decides what is drawn
//                      (random_window), and times the ranks where it decides how gradients are scaled (sum):
//                      Error(checkpoint) naming what differs
//   may change, said   every other key that has a part in the numbers (steps, optimizer, schedule, precision, ...),
//                      build, processor, libraries, threads and ranks: a warning with old and new values
//   may change         run.dir, checkpoint, scores, logging
void require_same_run(const RunConfig& config, const nlohmann::json& facts, const checkpoint::Loaded& loaded);

}  // namespace t6::train
