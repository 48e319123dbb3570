// A model out of a checkpoint, for evaluating and generating.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "model/transformer.h"
#include "train/run_config.h"

namespace t6::cli {

struct LoadedModel {
  std::filesystem::path path;  // of the checkpoint
  int64_t step = 0;
  RunConfig config;                    // it was trained under
  std::unique_ptr<Transformer> model;  // on choose_device(device)
};

// The newest intact checkpoint of `path`, or the one it names (find_checkpoints): parameters only, for compute in
// `precision`, on GPU number `gpu` where on one. Error(checkpoint) as checkpoint::load, Error(usage) as
// train::choose_device.
LoadedModel load_model(const std::string& path, Precision precision, DeviceChoice device, int gpu = 0);

// Tells checkpoints apart: the hash of the file that has those of all others.
std::string manifest_hash(const LoadedModel& loaded);

}  // namespace t6::cli
