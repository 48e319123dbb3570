// Models with random weights as checkpoints, exported and imported, for the tests of these.
#pragma once

#include <map>

#include "checkpoint/checkpoint_support.h"
#include "checkpoint/export_model.h"
#include "checkpoint/import_model.h"
#include "model/transformer.h"
#include "support/small_model.h"

namespace t6::checkpoint {

// Every file of a folder by name.
inline std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const std::string& name : io::list_folder(folder)) files[name] = read_bytes(folder / name);
  return files;
}

inline State parameters_of(const ParameterStore& store) {
  State state;
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    state.tensors.push_back(
        {.name = "params/" + v.name,
         .dtype = DType::f32,
         .shape = v.shape,
         .get = [&store, &p, &v] { return store.gather(store.master(), p, v); },
         .set = [&store, &p, &v](const Tensor& values) { store.scatter(store.master(), p, v, values); }});
  });
  return state;
}

// Saves random weights of `config` as step 7 of `dir`.
inline fs::path save_random(const fs::path& dir, const ModelConfig& config, uint64_t seed) {
  Transformer model(config);
  test::allocate_random(model, DType::f32, seed);
  return save(dir, 7, parameters_of(model.parameters())).path;
}

// Saves an imported model as step 0 of `dir`.
inline fs::path save_imported(const fs::path& dir, const ImportedModel& model) {
  return save(dir, 0, model.state()).path;
}

inline nlohmann::json some_run() {
  return {{"steps", 3499}, {"training loss", 3.25}, {"config", {{"optimizer.lr", "0.0006"}}}};
}

// The formats that a kind is exported to.
inline std::vector<ModelFormat> formats_of(const ModelConfig& config) {
  std::vector<ModelFormat> formats{ModelFormat::official, hf_format(config, false)};
  if (config.kind() == AttentionKind::mha && config.width % config.heads == 0) formats.push_back(ModelFormat::llama);
  return formats;
}

}  // namespace t6::checkpoint
