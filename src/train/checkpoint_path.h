// What a user's RUN names: a run folder, a folder of checkpoints, or one checkpoint.
#pragma once

#include <filesystem>
#include <string>

namespace t6::train {

struct CheckpointPath {
  std::filesystem::path path;  // a folder of checkpoints, or one of them
  bool one = false;
};

// Error(checkpoint) when `path` is none of the three; the message says what is there instead.
CheckpointPath find_checkpoints(const std::string& path);

}  // namespace t6::train
