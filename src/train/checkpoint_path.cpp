#include "train/checkpoint_path.h"

#include "base/error.h"
#include "base/io.h"
#include "checkpoint/manifest.h"
#include "checkpoint/weights_folder.h"
#include "train/run_folder.h"
#include "train/training_state.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;

bool is_step(const fs::path& path) {
  return path.filename().string().starts_with("step-");
}

bool holds_steps(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    if (is_step(entry.path())) return true;
  }
  return false;
}

}  // namespace

CheckpointPath find_checkpoints(const std::string& path) {
  std::error_code ignored;
  fs::path folder = fs::path(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (!fs::exists(folder, ignored)) {
    fail(ExitCode::checkpoint, "{}: no such folder; expected a run folder, a folder of checkpoints or one checkpoint",
         path);
  }
  if (fs::exists(folder / "manifest.json", ignored) || is_step(folder)) return {folder, true};
  const RunPaths run{folder};
  if (fs::is_directory(run.checkpoints(), ignored)) return {run.checkpoints(), false};
  if (holds_steps(folder) || folder.filename() == run.checkpoints().filename()) return {folder, false};
  if (fs::exists(run.config(), ignored)) fail(ExitCode::checkpoint, "the run {} has no checkpoint yet", path);
  if (fs::exists(folder / "config.json", ignored) && (fs::exists(folder / checkpoint::kWeightsFile, ignored) ||
                                                      fs::exists(folder / checkpoint::kWeightsIndex, ignored))) {
    fail(ExitCode::checkpoint, "{} is an exported model, no run folder; make one of it first: t6 import {} --out RUN",
         path, path);
  }
  fail(ExitCode::checkpoint,
       "{} is neither a run folder nor a folder of checkpoints nor one checkpoint: no checkpoints/, no step-... and no "
       "manifest.json is in it",
       path);
}

checkpoint::Loaded load_from(const CheckpointPath& where, const checkpoint::State& state,
                             const checkpoint::LoadOptions& options, const checkpoint::Peers& peers) {
  return load_from(
      where, [&](const checkpoint::Loaded&) { return state; }, options, peers);
}

checkpoint::Loaded load_from(const CheckpointPath& where, const checkpoint::StateOf& state_of,
                             const checkpoint::LoadOptions& options, const checkpoint::Peers& peers) {
  if (where.one) return checkpoint::load_one(where.path, state_of, options, peers);
  std::optional<checkpoint::Loaded> newest = checkpoint::load(where.path, state_of, options, peers);
  if (!newest) fail(ExitCode::checkpoint, "{} holds no checkpoint", where.path.string());
  return *newest;
}

checkpoint::Loaded facts_of(const std::string& path) {
  return load_from(find_checkpoints(path), checkpoint::State{}, {.prefix = "none/"});
}

fs::path tokenizer_file(const RunConfig& config, const fs::path& step) {
  const fs::path named = config.data.tokenizer.value();
  const fs::path inside = named.lexically_normal().lexically_relative(fs::path(config.run.dir).lexically_normal());
  if (inside.empty() || *inside.begin() == "..") return named;
  const fs::path here = (step.parent_path() / ".." / inside).lexically_normal();
  std::error_code ignored;
  return fs::exists(here, ignored) ? here : named;
}

void require_attention(const CheckpointPath& where, std::string_view kind) {
  fs::path newest = where.path;
  if (!where.one) {
    for (const checkpoint::Entry& entry : checkpoint::list(where.path)) {
      if (entry.damage.empty()) newest = entry.path;
    }
  }
  std::string there;
  try {
    there =
        config_of(checkpoint::parse_manifest(io::read_text(newest / checkpoint::kManifestName), newest.string()).facts,
                  newest)
            .model.kind_name();
  } catch (const Error&) {
    return;
  }
  if (there == kind) return;
  fail(ExitCode::checkpoint,
       "{} does not fit the model: model.attention is {} there, {} here; weights go on with the kind they are of",
       newest.string(), there, kind);
}

}  // namespace t6::train
