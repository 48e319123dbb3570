// What a user's RUN names: a run folder, a folder of checkpoints, or one checkpoint.
#pragma once

#include <filesystem>
#include <string>

#include "checkpoint/checkpoint.h"
#include "train/run_config.h"

namespace t6::train {

struct CheckpointPath {
  std::filesystem::path path;  // a folder of checkpoints, or one of them
  bool one = false;
};

// Error(checkpoint) when `path` is none of the three; the message says what is there instead.
CheckpointPath find_checkpoints(const std::string& path);

// The newest intact checkpoint of `where`, or the one it is, into `state` as checkpoint::load does. Error(checkpoint)
// also when there is none.
checkpoint::Loaded load_from(const CheckpointPath& where, const checkpoint::State& state,
                             const checkpoint::LoadOptions& options = {}, const checkpoint::Peers& peers = {});

checkpoint::Loaded load_from(const CheckpointPath& where, const checkpoint::StateOf& state_of,
                             const checkpoint::LoadOptions& options = {}, const checkpoint::Peers& peers = {});

// What the newest intact checkpoint of `path`, or the one it names, says about itself; no tensor is read.
// Error(checkpoint) also when there is none.
checkpoint::Loaded facts_of(const std::string& path);

// The file that data.tokenizer of `config`, which must be set, names. Paths in a config are those of the folder where
// the run was started; but one into the run's own folder is looked for first in the run folder of `step`, a checkpoint,
// wherever that lies now.
std::filesystem::path tokenizer_file(const RunConfig& config, const std::filesystem::path& step);

// Error(checkpoint) when the newest checkpoint of `where` says that its model has another kind of attention than
// `kind`; what it does not say is left to who loads it.
void require_attention(const CheckpointPath& where, std::string_view kind);

}  // namespace t6::train
