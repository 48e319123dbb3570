#include "cli/loaded_model.h"

#include <optional>

#include "base/io.h"
#include "checkpoint/checkpoint.h"
#include "train/checkpoint_path.h"
#include "train/device.h"
#include "train/training_state.h"

namespace t6::cli {

LoadedModel load_model(const std::string& path, Precision precision, DeviceChoice device, int gpu) {
  std::optional<LoadedModel> loaded;
  // What it says about itself comes first: the config that shapes the model.
  const auto state_of = [&](const checkpoint::Loaded& about) {
    loaded.emplace(LoadedModel{about.path, about.step, train::config_of(about.facts, about.path), nullptr});
    loaded->model = std::make_unique<Transformer>(loaded->config.model);
    loaded->model->allocate_for_inference(dtype_for(precision), train::choose_device(device, "--device cuda", gpu));
    return train::model_state(loaded->model->parameters());
  };
  train::load_from(train::find_checkpoints(path), state_of, {.prefix = "params/"});
  return std::move(*loaded);
}

std::string manifest_hash(const LoadedModel& loaded) {
  return io::hash_file(loaded.path / "manifest.json");
}

}  // namespace t6::cli
