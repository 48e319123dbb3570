// What the commands show of checkpoints: list, verify, inspect.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/commit.h"
#include "checkpoint/intact.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

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

// Facts of a tensor that comes in parts, in their order: the same sums whatever the parts.
class Summary {
 public:
  explicit Summary(const ManifestTensor& tensor) {
    facts_.name = tensor.name;
    facts_.dtype = tensor.dtype;
    facts_.shape = tensor.shape;
    facts_.parts = tensor.parts.size();
  }

  void add(const Tensor& part) {
    if (part.dtype() == DType::i32) {
      add(part.data<int32_t>(), part.numel());
    } else {
      dispatch_float(part.dtype(), [&](auto zero) { add(part.data<decltype(zero)>(), part.numel()); });
    }
  }

  TensorFacts facts() const {
    TensorFacts facts = facts_;
    facts.norm = std::sqrt(squares_);
    return facts;
  }

 private:
  template <class T>
  void add(const T* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const double value = static_cast<double>(values[i]);
      if (std::isnan(value)) {
        ++facts_.nan_count;
      } else if (std::isinf(value)) {
        ++facts_.infinite_count;
      } else {
        facts_.min = any_ ? std::min(facts_.min, value) : value;
        facts_.max = any_ ? std::max(facts_.max, value) : value;
        any_ = true;
        squares_ += value * value;
      }
    }
  }

  TensorFacts facts_;
  double squares_ = 0;
  bool any_ = false;
};

json dims_of(const Shape& shape) {
  return std::vector<int64_t>(shape.begin(), shape.end());
}

}  // namespace

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
      entry.world = manifest.world;
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
    IntactCheckpoint checkpoint(folder);
    const Manifest& manifest = checkpoint.manifest();
    Inspected inspected;
    inspected.path = folder;
    inspected.step = manifest.step;
    inspected.world = manifest.world;
    inspected.bytes = manifest.bytes();
    inspected.scalars = manifest.scalars;
    inspected.facts = manifest.facts;
    for (const ManifestTensor& tensor : manifest.tensors) {
      Summary summary(tensor);
      for (const ManifestPart& part : tensor.parts) summary.add(checkpoint.read(tensor, part));
      inspected.tensors.push_back(summary.facts());
    }
    return inspected;
  } catch (const Damage& damage) {
    fail(ExitCode::checkpoint, "the checkpoint {} cannot be used: {}", folder.string(), damage.reason);
  }
}

json to_json(const Entry& entry) {
  return {{"path", entry.path.string()},   {"step", entry.step},   {"bytes", entry.bytes},
          {"tensors", entry.tensor_count}, {"world", entry.world}, {"intact", entry.damage.empty()},
          {"damage", entry.damage}};
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
                       {"parts", facts.parts},
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
