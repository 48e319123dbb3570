// Loading checkpoints: verification before use, fallback to the newest intact one, on all ranks alike.
#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/agreement.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/commit.h"
#include "checkpoint/intact.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

constexpr size_t kDifferencesShown = 8;

std::string describe(DType dtype, const Shape& shape) {
  return fmt::format("{} {}", name_of(dtype), to_string(shape));
}

// How this rank's state fits a checkpoint: what is wrong with it, and which of the saved tensors below the prefix it
// knows, as a text of '0' and '1'.
struct Fit {
  std::vector<std::string> differences;
  std::string known;
};

Fit fit_of(const Manifest& manifest, const State& state, const std::string& prefix) {
  std::map<std::string, size_t> saved;
  for (size_t i = 0; i < manifest.tensors.size(); ++i) saved.emplace(manifest.tensors[i].name, i);
  Fit fit{{}, std::string(manifest.tensors.size(), '0')};
  std::set<std::string> met;
  for (const TensorRef& ref : state.tensors) {
    if (!ref.name.starts_with(prefix)) continue;
    T6_CHECK(ref.begin >= 0 && ref.size() >= 0 && ref.begin <= ref.shape.numel() - ref.size(),
             "[checkpoint] {} {} has no elements [{}, {})", ref.name, to_string(ref.shape), ref.begin,
             ref.begin + ref.size());
    const bool first = met.insert(ref.name).second;
    const auto found = saved.find(ref.name);
    if (found == saved.end()) {
      if (first) fit.differences.push_back(fmt::format("{} is not in the checkpoint", ref.name));
      continue;
    }
    fit.known[found->second] = '1';
    const ManifestTensor& tensor = manifest.tensors[found->second];
    if (first && (tensor.dtype != ref.dtype || tensor.shape != ref.shape)) {
      fit.differences.push_back(fmt::format("{} is {} there, expected {}", ref.name,
                                            describe(tensor.dtype, tensor.shape), describe(ref.dtype, ref.shape)));
    }
  }
  return fit;
}

// Error(checkpoint) when the tensors below the prefix are not exactly those that all ranks know together.
void require_fit(const fs::path& folder, const Manifest& manifest, const std::vector<Fit>& fits,
                 const std::string& prefix) {
  std::vector<std::string> differences;
  for (const Fit& fit : fits) {
    for (const std::string& difference : fit.differences) {
      if (std::find(differences.begin(), differences.end(), difference) == differences.end()) {
        differences.push_back(difference);
      }
    }
  }
  for (size_t i = 0; i < manifest.tensors.size(); ++i) {
    const std::string& name = manifest.tensors[i].name;
    const bool known = std::any_of(fits.begin(), fits.end(), [i](const Fit& fit) { return fit.known[i] == '1'; });
    if (name.starts_with(prefix) && !known) differences.push_back(fmt::format("{} is not in the model", name));
  }
  if (differences.empty()) return;
  std::string text;
  for (size_t i = 0; i < std::min(differences.size(), kDifferencesShown); ++i) text += "\n  " + differences[i];
  if (differences.size() > kDifferencesShown)
    text += fmt::format("\n  and {} more", differences.size() - kDifferencesShown);
  fail(ExitCode::checkpoint, "{} does not fit the model; use the config it was trained with. {} difference{}:{}",
       folder.string(), differences.size(), differences.size() == 1 ? "" : "s", text);
}

void read_state(IntactCheckpoint& checkpoint, const State& state, const std::string& prefix) {
  std::map<std::string, const ManifestTensor*> saved;
  for (const ManifestTensor& tensor : checkpoint.manifest().tensors) saved.emplace(tensor.name, &tensor);
  for (const TensorRef& ref : state.tensors) {
    if (!ref.name.starts_with(prefix) || ref.size() == 0) continue;
    const Tensor flat = Tensor::empty({ref.size()}, ref.dtype);
    checkpoint.read(*saved.at(ref.name), ref.begin, flat);
    ref.set(ref.count == TensorRef::kAll ? flat.view(ref.shape) : flat);
  }
}

// Throws Damage or Error, the same on all ranks.
Loaded load_intact(const fs::path& folder, const StateOf& state_of, const LoadOptions& options, const Peers& peers) {
  std::optional<IntactCheckpoint> checkpoint;
  Loaded about;
  State state;
  const Outcome mine = outcome_of(peers, [&] {
    checkpoint.emplace(folder, [&](int rank) { return rank % peers.world == peers.rank; });
    const Manifest& manifest = checkpoint->manifest();
    about = {folder, manifest.step, manifest.scalars, manifest.facts, {}};
    state = state_of(about);
    const Fit fit = fit_of(manifest, state, options.prefix);
    return json{{"manifest", manifest.xxh3}, {"differences", fit.differences}, {"known", fit.known}}.dump();
  });
  const Manifest* manifest = nullptr;
  std::vector<Fit> fits;
  for (const Outcome& outcome : agree(peers, mine)) {
    const json told = json::parse(outcome.text);
    manifest = &checkpoint->manifest();
    // From another state of the folder: the ranks would not load the same.
    if (told.at("manifest") != manifest->xxh3) {
      throw Damage{fmt::format("{}: not all ranks read the same", (folder / kManifestName).string())};
    }
    fits.push_back({told.at("differences"), told.at("known")});
  }
  require_fit(folder, *manifest, fits, options.prefix);
  if (peers.rank == 0) remember_damage(folder, {});
  agree(peers, outcome_of(peers, [&] {
          read_state(*checkpoint, state, options.prefix);
          return std::string();
        }));
  return about;
}

// The checkpoints in `dir`, which all ranks must see.
std::vector<StepPath> common_steps(const fs::path& dir, const Peers& peers) {
  std::vector<StepPath> found;
  const Outcome mine = outcome_of(peers, [&] {
    found = step_paths(dir);
    std::string names;
    for (const StepPath& entry : found) names += (names.empty() ? "" : ", ") + step_name(entry.step);
    return names;
  });
  const std::vector<Outcome> all = agree(peers, mine);
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank].text == all[0].text) continue;
    const auto seen = [&](size_t r) { return all[r].text.empty() ? "none" : all[r].text; };
    fail(ExitCode::checkpoint,
         "the ranks do not see the same checkpoints in {}: rank 0 sees {}, rank {} sees {}; put the run folder on a "
         "file system that all hosts share",
         dir.string(), seen(0), rank, seen(rank));
  }
  return found;
}

}  // namespace

std::optional<Loaded> load(const fs::path& dir, const StateOf& state_of, const LoadOptions& options,
                           const Peers& peers) {
  const std::vector<StepPath> found = common_steps(dir, peers);
  std::vector<std::string> warnings;
  for (auto entry = found.rbegin(); entry != found.rend(); ++entry) {
    try {
      Loaded loaded = load_intact(entry->path, state_of, options, peers);
      loaded.warnings = std::move(warnings);
      return loaded;
    } catch (const Damage& damage) {
      warnings.push_back(fmt::format("checkpoint of step {} is damaged and not used: {}", entry->step, damage.reason));
      if (peers.rank == 0) log::warn("{}", warnings.back());
    }
  }
  if (warnings.empty()) return std::nullopt;
  std::string text;
  for (const std::string& warning : warnings) text += "\n  " + warning;
  fail(ExitCode::checkpoint,
       "none of the {} checkpoints in {} is intact; restore one from a copy, or start anew in another run folder:{}",
       found.size(), dir.string(), text);
}

std::optional<Loaded> load(const fs::path& dir, const State& state, const LoadOptions& options, const Peers& peers) {
  return load(
      dir, [&](const Loaded&) { return state; }, options, peers);
}

Loaded load_one(const fs::path& path, const State& state, const LoadOptions& options, const Peers& peers) {
  return load_one(
      path, [&](const Loaded&) { return state; }, options, peers);
}

Loaded load_one(const fs::path& path, const StateOf& state_of, const LoadOptions& options, const Peers& peers) {
  try {
    return load_intact(path, state_of, options, peers);
  } catch (const Damage& damage) {
    fail(ExitCode::checkpoint, "the checkpoint {} cannot be used: {}", path.string(), damage.reason);
  }
}

}  // namespace t6::checkpoint
