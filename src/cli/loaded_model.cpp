#include "cli/loaded_model.h"

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "cli/run_path.h"
#include "train/device.h"
#include "train/training_state.h"

namespace t6::cli {

LoadedModel load_model(const std::string& path, Precision precision, DeviceChoice device, int gpu) {
  const CheckpointPath where = find_checkpoints(path);
  // What it says about itself comes first: the config that shapes the model. No tensor is read under this prefix.
  const checkpoint::LoadOptions facts_only{.prefix = "none/"};
  checkpoint::Loaded about;
  if (where.one) {
    about = checkpoint::load_one(where.path, {}, facts_only);
  } else {
    std::optional<checkpoint::Loaded> newest = checkpoint::load(where.path, {}, facts_only);
    if (!newest) fail(ExitCode::checkpoint, "{} holds no checkpoint", where.path.string());
    about = std::move(*newest);
  }
  LoadedModel loaded{about.path, about.step, train::config_of(about.facts, about.path), nullptr};
  loaded.model = std::make_unique<Transformer>(loaded.config.model);
  loaded.model->allocate(dtype_for(precision), train::choose_device(device, "--device cuda", gpu));
  checkpoint::load_one(about.path, train::model_state(loaded.model->parameters()), {.prefix = "params/"});
  loaded.model->parameters().refresh_compute();
  return loaded;
}

}  // namespace t6::cli
