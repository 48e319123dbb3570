// Reading checkpoints: verification before use, fallback to the newest intact one, and what the commands show.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/io.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/commit.h"
#include "checkpoint/hdf5_file.h"
#include "checkpoint/manifest.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

constexpr size_t kDifferencesShown = 8;

// What is wrong with a checkpoint; decides between falling back and an error.
struct Damage {
  std::string reason;
};

// Runs f; a file that is missing, unreadable, cut or changed is Damage.
template <class F>
auto or_damage(F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    if (error.code() == ExitCode::internal) throw;
    throw Damage{error.what()};
  }
}

void require_regular(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw Damage{fmt::format("{} is missing", path.string())};
  if (!S_ISREG(status.st_mode)) throw Damage{fmt::format("{} is not a file", path.string())};
}

// The step in the folder's name (a slash at the end does not matter), or -1.
int64_t folder_step(const fs::path& folder) {
  return step_of((folder.has_filename() ? folder : folder.parent_path()).filename().string());
}

// The manifest, with every file of it there in its size.
Manifest read_manifest(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) throw Damage{fmt::format("{} is not a folder", folder.string())};
  const fs::path path = folder / kManifestName;
  require_regular(path);
  Manifest manifest = or_damage([&] { return parse_manifest(io::read_text(path, kMaxManifestBytes), path.string()); });
  const int64_t step = folder_step(folder);
  if (step >= 0 && step != manifest.step) {
    throw Damage{fmt::format("{} is of step {}", path.string(), manifest.step)};
  }
  for (const ManifestFile& file : manifest.files) {
    require_regular(folder / file.name);
    const uint64_t bytes = or_damage([&] { return io::File::open_read(folder / file.name).size(); });
    if (bytes != file.bytes) {
      throw Damage{fmt::format("{} has {} bytes, expected {}", (folder / file.name).string(), bytes, file.bytes)};
    }
  }
  return manifest;
}

// A checkpoint all of whose bytes were found right. Its files stay open, so that these bytes are what is read.
struct Intact {
  Manifest manifest;
  std::vector<io::File> files;
};

Intact open_intact(const fs::path& folder) {
  Intact intact{read_manifest(folder), {}};
  for (const ManifestFile& file : intact.manifest.files) {
    const fs::path path = folder / file.name;
    or_damage([&] {
      intact.files.push_back(io::File::open_read(path));
      if (io::hash_file(intact.files.back()) != file.xxh3) {
        throw Damage{fmt::format("{}: its hash is not that of the manifest", path.string())};
      }
    });
  }
  return intact;
}

// Reads the tensors for which wanted(tensor) is true, in file order, each compared with its own hash.
template <class Wanted, class Use>
void read_tensors(Intact& intact, Wanted&& wanted, Use&& use) {
  for (int rank = 0; rank < intact.manifest.world; ++rank) {
    const fs::path path = intact.files[static_cast<size_t>(rank)].path();
    Hdf5Reader reader = or_damage([&] {
      Hdf5Reader opened(std::move(intact.files[static_cast<size_t>(rank)]));
      if (opened.get_integer("step") != intact.manifest.step || opened.get_integer("rank") != rank) {
        throw Damage{fmt::format("{} is of another step or rank", path.string())};
      }
      return opened;
    });
    for (const ManifestTensor& tensor : intact.manifest.tensors) {
      if (tensor.rank != rank || !wanted(tensor)) continue;
      const Tensor value = or_damage([&] { return reader.read(tensor.name, tensor.dtype, tensor.shape); });
      if (io::hash_bytes({static_cast<const std::byte*>(value.raw()), value.bytes()}) != tensor.xxh3) {
        throw Damage{fmt::format("{}: the hash of {} is not that of the manifest", path.string(), tensor.name)};
      }
      use(tensor, value);
    }
  }
}

std::string describe(DType dtype, const Shape& shape) {
  return fmt::format("{} {}", name_of(dtype), to_string(shape));
}

// Error(checkpoint) when the tensors below the prefix are not exactly those of `state`.
void require_fit(const fs::path& folder, const Manifest& manifest, const State& state, const std::string& prefix) {
  std::map<std::string, const ManifestTensor*> saved;
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (tensor.name.starts_with(prefix)) saved.emplace(tensor.name, &tensor);
  }
  std::vector<std::string> differences;
  for (const TensorRef& ref : state.tensors) {
    if (!ref.name.starts_with(prefix)) continue;
    const auto found = saved.find(ref.name);
    if (found == saved.end()) {
      differences.push_back(fmt::format("{} is not in the checkpoint", ref.name));
      continue;
    }
    const ManifestTensor& tensor = *found->second;
    if (tensor.dtype != ref.dtype || tensor.shape != ref.shape) {
      differences.push_back(fmt::format("{} is {} there, expected {}", ref.name, describe(tensor.dtype, tensor.shape),
                                        describe(ref.dtype, ref.shape)));
    }
    saved.erase(found);
  }
  for (const auto& [name, tensor] : saved) differences.push_back(fmt::format("{} is not in the model", name));
  if (differences.empty()) return;
  std::string text;
  for (size_t i = 0; i < std::min(differences.size(), kDifferencesShown); ++i) text += "\n  " + differences[i];
  if (differences.size() > kDifferencesShown)
    text += fmt::format("\n  and {} more", differences.size() - kDifferencesShown);
  fail(ExitCode::checkpoint, "{} does not fit the model; use the config it was trained with. {} difference{}:{}",
       folder.string(), differences.size(), differences.size() == 1 ? "" : "s", text);
}

// Throws Damage or Error.
Loaded load_intact(const fs::path& folder, const State& state, const LoadOptions& options) {
  Intact intact = open_intact(folder);
  require_fit(folder, intact.manifest, state, options.prefix);
  std::map<std::string, const TensorRef*> refs;
  for (const TensorRef& ref : state.tensors) refs.emplace(ref.name, &ref);
  read_tensors(
      intact, [&](const ManifestTensor& tensor) { return tensor.name.starts_with(options.prefix); },
      [&](const ManifestTensor& tensor, const Tensor& value) { refs.at(tensor.name)->set(value); });
  return {folder, intact.manifest.step, intact.manifest.scalars, intact.manifest.facts, {}};
}

// Empty when `folder` is intact.
std::string find_damage(const fs::path& folder, bool deep, uint64_t& bytes) {
  try {
    Intact intact = open_intact(folder);
    bytes = intact.manifest.bytes();
    if (deep) {
      read_tensors(
          intact, [](const ManifestTensor&) { return true; }, [](const ManifestTensor&, const Tensor&) {});
    }
    return {};
  } catch (const Damage& damage) {
    return damage.reason;
  }
}

// True for one checkpoint, false for a folder of them.
bool is_checkpoint(const fs::path& path) {
  std::error_code ignored;
  if (folder_step(path) >= 0 || fs::exists(path / kManifestName, ignored)) return true;
  if (step_paths(path).empty()) {
    fail(ExitCode::checkpoint, "no checkpoint in {}: expected a folder step-NNNNNNNN, or one that holds such folders",
         path.string());
  }
  return false;
}

template <class T>
void summarize(const T* values, int64_t count, TensorFacts& facts) {
  double sum = 0;
  bool any = false;
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(values[i]);
    if (std::isnan(value)) {
      ++facts.nan_count;
    } else if (std::isinf(value)) {
      ++facts.infinite_count;
    } else {
      facts.min = any ? std::min(facts.min, value) : value;
      facts.max = any ? std::max(facts.max, value) : value;
      any = true;
      sum += value * value;
    }
  }
  facts.norm = std::sqrt(sum);
}

TensorFacts facts_of(const std::string& name, const Tensor& tensor) {
  TensorFacts facts{name, tensor.dtype(), tensor.shape(), 0, 0, 0, 0, 0};
  if (tensor.dtype() == DType::i32) {
    summarize(tensor.data<int32_t>(), tensor.numel(), facts);
  } else {
    dispatch_float(tensor.dtype(), [&](auto zero) { summarize(tensor.data<decltype(zero)>(), tensor.numel(), facts); });
  }
  return facts;
}

json dims_of(const Shape& shape) {
  return std::vector<int64_t>(shape.begin(), shape.end());
}

}  // namespace

std::optional<Loaded> load(const fs::path& dir, const State& state, const LoadOptions& options) {
  std::vector<StepPath> found = step_paths(dir);
  std::vector<std::string> warnings;
  for (auto entry = found.rbegin(); entry != found.rend(); ++entry) {
    try {
      Loaded loaded = load_intact(entry->path, state, options);
      loaded.warnings = std::move(warnings);
      return loaded;
    } catch (const Damage& damage) {
      warnings.push_back(fmt::format("checkpoint of step {} is damaged and not used: {}", entry->step, damage.reason));
      log::warn("{}", warnings.back());
    }
  }
  if (warnings.empty()) return std::nullopt;
  std::string text;
  for (const std::string& warning : warnings) text += "\n  " + warning;
  fail(ExitCode::checkpoint,
       "none of the {} checkpoints in {} is intact; restore one from a copy, or start anew in another run folder:{}",
       found.size(), dir.string(), text);
}

Loaded load_one(const fs::path& path, const State& state, const LoadOptions& options) {
  try {
    return load_intact(path, state, options);
  } catch (const Damage& damage) {
    fail(ExitCode::checkpoint, "the checkpoint {} cannot be used: {}", path.string(), damage.reason);
  }
}

std::vector<Entry> list(const fs::path& dir) {
  std::vector<Entry> entries;
  for (const StepPath& found : step_paths(dir)) {
    Entry entry;
    entry.path = found.path;
    entry.step = found.step;
    try {
      const Manifest manifest = read_manifest(found.path);
      entry.bytes = manifest.bytes();
      entry.tensor_count = manifest.tensors.size();
    } catch (const Damage& damage) {
      entry.damage = damage.reason;
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::vector<Verified> verify(const fs::path& path, bool deep) {
  std::vector<StepPath> found;
  if (is_checkpoint(path)) {
    found.push_back({std::max<int64_t>(0, folder_step(path)), path});
  } else {
    found = step_paths(path);
  }
  std::vector<Verified> results;
  for (const StepPath& entry : found) {
    const auto start = std::chrono::steady_clock::now();
    Verified result{entry.path, entry.step, 0, 0, {}};
    result.damage = find_damage(entry.path, deep, result.bytes);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    results.push_back(std::move(result));
  }
  return results;
}

Inspected inspect(const fs::path& path) {
  const fs::path folder = is_checkpoint(path) ? path : step_paths(path).back().path;
  try {
    Intact intact = open_intact(folder);
    Inspected inspected;
    inspected.path = folder;
    inspected.step = intact.manifest.step;
    inspected.world = intact.manifest.world;
    inspected.bytes = intact.manifest.bytes();
    inspected.scalars = intact.manifest.scalars;
    inspected.facts = intact.manifest.facts;
    read_tensors(
        intact, [](const ManifestTensor&) { return true; },
        [&](const ManifestTensor& tensor, const Tensor& value) {
          inspected.tensors.push_back(facts_of(tensor.name, value));
        });
    return inspected;
  } catch (const Damage& damage) {
    fail(ExitCode::checkpoint, "the checkpoint {} cannot be used: {}", folder.string(), damage.reason);
  }
}

json to_json(const Entry& entry) {
  return {{"path", entry.path.string()},    {"step", entry.step},
          {"bytes", entry.bytes},           {"tensors", entry.tensor_count},
          {"intact", entry.damage.empty()}, {"damage", entry.damage}};
}

json to_json(const Verified& verified) {
  return {{"path", verified.path.string()},    {"step", verified.step},
          {"bytes", verified.bytes},           {"seconds", verified.seconds},
          {"intact", verified.damage.empty()}, {"damage", verified.damage}};
}

json to_json(const Inspected& inspected) {
  json tensors = json::array();
  for (const TensorFacts& facts : inspected.tensors) {
    tensors.push_back({{"name", facts.name},
                       {"dtype", name_of(facts.dtype)},
                       {"shape", dims_of(facts.shape)},
                       {"norm", facts.norm},
                       {"min", facts.min},
                       {"max", facts.max},
                       {"nan", facts.nan_count},
                       {"infinite", facts.infinite_count}});
  }
  return {{"path", inspected.path.string()},
          {"step", inspected.step},
          {"world", inspected.world},
          {"bytes", inspected.bytes},
          {"scalars", inspected.scalars},
          {"facts", inspected.facts},
          {"tensors", tensors}};
}

}  // namespace t6::checkpoint
