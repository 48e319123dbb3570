// What a checkpoint of a training run holds: parameters and moments under the model's names, and the facts beside them.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "model/transformer.h"
#include "train/optimizer.h"
#include "train/run_config.h"

namespace t6::train {

// params/<name> of the masters, without padding; for loading a model to evaluate or to generate with.
checkpoint::State model_state(const ParameterStore& store);

// The same and adamw/m/<name>, adamw/v/<name>. store and optimizer must outlive it.
checkpoint::State training_state(const ParameterStore& store, const AdamW& optimizer);

// The resolved config and what made it, for SaveOptions::facts.
nlohmann::json run_facts(const RunConfig& config);

// The config a checkpoint was saved under. Error(checkpoint) when the facts hold none.
RunConfig config_of(const nlohmann::json& facts, const std::filesystem::path& path);

// A resumed run goes on with the same model, data order and update rule: Error(checkpoint) naming each key that decides
// these and differs. Keys that only lengthen, report or place a run may change.
void require_same_run(const RunConfig& config, const nlohmann::json& facts, const std::filesystem::path& path);

}  // namespace t6::train
