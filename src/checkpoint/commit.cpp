#include "checkpoint/commit.h"

#include <algorithm>
#include <charconv>
#include <mutex>
#include <set>

#include "base/error.h"
#include "base/io.h"
#include "checkpoint/intact.h"

namespace t6::checkpoint {
namespace {

constexpr const char* kTemporary = ".tmp-";
constexpr const char* kTrash = ".trash-";
constexpr const char* kOld = ".old-";

fs::path hidden_path(const fs::path& dir, const char* prefix, int64_t step) {
  return dir / (prefix + step_name(step));
}

// A link counts whatever it points at.
bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

// The step in a hidden name with this prefix, or -1.
int64_t hidden_step(const std::string& name, const std::string& prefix) {
  return name.starts_with(prefix) ? step_of(name.substr(prefix.size())) : -1;
}

// Ends a replacement that was cut short: the old one goes where its replacement stands and comes back where not.
void settle_old(const fs::path& dir, int64_t step) {
  const fs::path old = hidden_path(dir, kOld, step), final_path = dir / step_name(step);
  if (!is_there(old)) return;
  if (is_there(final_path)) {
    io::remove_all(old);
  } else {
    io::rename(old, final_path);
    io::sync_directory(dir);
  }
}

// True once a process for each checkpoint.
bool is_new(const fs::path& damaged) {
  static std::mutex mutex;
  static std::set<std::string> told;
  const std::lock_guard lock(mutex);
  return told.insert(damaged.string()).second;
}

// What retention makes of the checkpoints of a folder.
struct Verdicts {
  std::vector<StepPath> deleted;  // oldest first
  std::vector<fs::path> unknown;  // newest first
  std::vector<std::pair<StepPath, std::string>> damaged;
};

// What is damaged, or may be, is not counted and left where it is.
Verdicts judge(const fs::path& dir, int64_t step, const Retention& retention) {
  std::vector<StepPath> found = step_paths(dir);
  std::erase_if(found, [step](const StepPath& entry) { return entry.step > step; });
  Verdicts verdicts;
  int kept = 0;
  for (auto entry = found.rbegin(); entry != found.rend(); ++entry) {
    if (entry->step == step) {
      ++kept;
      continue;
    }
    const bool counts = kept < std::max(retention.keep_last, 1);
    if (!counts && retention.keep_every > 0 && entry->step % retention.keep_every == 0) continue;
    const std::optional<std::string> damage = counts ? known_damage(entry->path) : visible_damage(entry->path);
    if (!damage) {
      verdicts.unknown.push_back(entry->path);
    } else if (!damage->empty()) {
      verdicts.damaged.emplace_back(*entry, *damage);
    } else if (counts) {
      ++kept;
    } else {
      verdicts.deleted.push_back(*entry);
    }
  }
  std::reverse(verdicts.deleted.begin(), verdicts.deleted.end());
  return verdicts;
}

}  // namespace

std::string step_name(int64_t step) {
  return fmt::format("step-{:08}", step);
}

fs::path temporary_path(const fs::path& dir, int64_t step) {
  return hidden_path(dir, kTemporary, step);
}

int64_t step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix)) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [last, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && last == end && step >= 0 && step_name(step) == name ? step : -1;
}

std::vector<StepPath> step_paths(const fs::path& dir) {
  std::vector<StepPath> found;
  if (!is_there(dir)) return found;
  for (const std::string& name : io::list_folder(dir)) {
    if (const int64_t step = step_of(name); step >= 0) found.push_back({step, dir / name});
  }
  std::sort(found.begin(), found.end(), [](const StepPath& a, const StepPath& b) { return a.step < b.step; });
  return found;
}

void clean_folder(const fs::path& dir) {
  for (const std::string& name : io::list_folder(dir)) {
    if (hidden_step(name, kTemporary) >= 0 || hidden_step(name, kTrash) >= 0) io::remove_all(dir / name);
    if (const int64_t step = hidden_step(name, kOld); step >= 0) settle_old(dir, step);
  }
}

fs::path make_temporary(const fs::path& dir, int64_t step) {
  settle_old(dir, step);
  const fs::path temporary = temporary_path(dir, step);
  io::remove_all(temporary);
  io::make_directories(temporary);
  return temporary;
}

std::vector<std::string> commit(const fs::path& dir, int64_t step, const std::string& manifest_text) {
  const fs::path temporary = temporary_path(dir, step), final_path = dir / step_name(step);
  io::File manifest = io::File::create_new(temporary / kManifestName);
  manifest.write_all(manifest_text);
  manifest.sync();
  manifest.close();
  io::sync_directory(temporary);
  if (!is_there(final_path)) {
    io::rename(temporary, final_path);
    io::sync_directory(dir);
    return {};
  }
  // A folder cannot be renamed over another: the old one steps aside, and comes back if the new one does not arrive.
  const fs::path old = hidden_path(dir, kOld, step);
  io::rename(final_path, old);
  try {
    io::rename(temporary, final_path);
  } catch (...) {
    io::rename(old, final_path);
    throw;
  }
  io::sync_directory(dir);
  try {
    io::remove_all(old);
  } catch (const Error& error) {
    return {fmt::format("the replaced checkpoint of step {} is still there: {}", step, error.what())};
  }
  return {};
}

void abandon(const fs::path& dir, int64_t step) noexcept {
  try {
    io::remove_all(temporary_path(dir, step));
  } catch (...) {
    // What is left does not carry a final name and is removed when the folder is opened again.
  }
}

fs::path unread(const fs::path& dir, int64_t step, const Retention& retention, const std::set<fs::path>& read) {
  for (const fs::path& path : judge(dir, step, retention).unknown) {
    if (!read.contains(path)) return path;
  }
  return {};
}

std::vector<std::string> retain(const fs::path& dir, int64_t step, const Retention& retention) {
  std::vector<std::string> warnings;
  try {
    const Verdicts verdicts = judge(dir, step, retention);
    for (const auto& [entry, damage] : verdicts.damaged) {
      if (!is_new(entry.path)) continue;
      warnings.push_back(fmt::format("the checkpoint of step {} is damaged; it is left as it is and not counted: {}",
                                     entry.step, damage));
    }
    std::vector<StepPath> deleted;  // oldest first
    for (const StepPath& entry : verdicts.deleted) {
      io::remove_all(hidden_path(dir, kTrash, entry.step));
      io::rename(entry.path, hidden_path(dir, kTrash, entry.step));
      deleted.push_back(entry);
    }
    // Names first: after a power cut no folder under a final name may lack files.
    if (!deleted.empty()) io::sync_directory(dir);
    for (const StepPath& entry : deleted) io::remove_all(hidden_path(dir, kTrash, entry.step));
  } catch (const Error& error) {
    warnings.push_back(fmt::format("old checkpoints are still there: {}", error.what()));
  }
  return warnings;
}

}  // namespace t6::checkpoint
