// What a command's RUN argument names.
#pragma once

#include "train/checkpoint_path.h"

namespace t6::cli {

using train::CheckpointPath;
using train::find_checkpoints;

}  // namespace t6::cli
