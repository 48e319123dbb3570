#include "train/training_state.h"

#include "base/error.h"

namespace t6::train {
namespace {

void add_views(checkpoint::State& state, const ParameterStore& store, const std::string& prefix, const Tensor& flat) {
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    const Parameter* parameter = &p;
    const ParameterView* view = &v;
    state.tensors.push_back(
        {.name = prefix + v.name,
         .dtype = flat.dtype(),
         .shape = v.shape,
         .get = [&store, flat, parameter, view] { return store.gather(flat, *parameter, *view); },
         .set = [&store, flat, parameter, view](const Tensor& t) { store.scatter(flat, *parameter, *view, t); }});
  });
}

}  // namespace

checkpoint::State model_state(const ParameterStore& store) {
  checkpoint::State state;
  add_views(state, store, "params/", store.master());
  return state;
}

checkpoint::State training_state(const ParameterStore& store, const AdamW& optimizer) {
  checkpoint::State state = model_state(store);
  add_views(state, store, "adamw/m/", optimizer.first_moment());
  add_views(state, store, "adamw/v/", optimizer.second_moment());
  return state;
}

nlohmann::json run_facts(const RunConfig& config) {
  return {{"config", to_yaml(config)}};
}

RunConfig config_of(const nlohmann::json& facts, const std::filesystem::path& path) {
  const auto it = facts.find("config");
  if (it == facts.end() || !it->is_string()) {
    fail(ExitCode::checkpoint, "{} does not say which config it was trained with", path.string());
  }
  return run_config_from_yaml(it->get<std::string>(), path.string() + " (config)");
}

void require_same_run(const RunConfig& config, const nlohmann::json& facts, const std::filesystem::path& path) {
  const RunConfig saved = config_of(facts, path);
  std::string differences;
  auto compare = [&](const char* key, bool equal) {
    if (!equal) differences += std::string(differences.empty() ? "" : ", ") + key;
  };
  compare("model", saved.model == config.model);
  compare("run.seed", saved.run.seed == config.run.seed);
  compare("data.sampling", saved.data.sampling == config.data.sampling);
  compare("train.global_batch", saved.train.global_batch == config.train.global_batch);
  compare("train.accumulation", saved.train.accumulation == config.train.accumulation);
  if (!differences.empty()) {
    fail(ExitCode::checkpoint,
         "{} was saved under another value of {}; a resumed run keeps these. Restore them, or choose another run.dir",
         path.string(), differences);
  }
}

}  // namespace t6::train
