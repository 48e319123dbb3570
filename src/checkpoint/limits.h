// What a checkpoint may be at most: its manifest is one text of bounded size, with an entry for every part of every
// tensor.
#pragma once

#include <functional>

#include "checkpoint/checkpoint.h"

namespace t6::checkpoint {

// Of a manifest's JSON: numbers, texts and keys, and the beginning and end of each list and object.
inline constexpr size_t kMaxManifestValues = 2'000'000;

// Error(usage), alike on all ranks, when the manifest of a checkpoint of these states, each rank's own, would be larger
// than one that can be read; before anything is written. The message ends with `advice`, which gets how many times too
// large it is.
void require_manifest_fits(const State& state, const std::function<std::string(double times)>& advice,
                           const Peers& peers = {});

}  // namespace t6::checkpoint
