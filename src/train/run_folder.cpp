#include "train/run_folder.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "train/environment.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// "by process 123 on host", as the holder wrote it into the lock file.
std::string holder_of(const fs::path& lock) {
  try {
    std::string text = io::read_text(lock, 1024);
    while (!text.empty() && (text.back() == '\n' || text.back() == '\0')) text.pop_back();
    return text.empty() ? "another process" : text;
  } catch (const Error&) {
    return "another process";
  }
}

std::string own_name() {
  struct utsname system {};
  return fmt::format("process {} on {}", ::getpid(), ::uname(&system) == 0 ? system.nodename : "this machine");
}

// Copies `text` (the present content of `path`) to the first free path.N. A kill between this and the new file leaves a
// copy that the next start finds as the newest and does not make again.
void keep_old(const fs::path& path, std::string_view text) {
  std::optional<fs::path> newest;
  for (int n = 1;; ++n) {
    fs::path kept = path;
    kept += fmt::format(".{}", n);
    if (!io::exists(kept)) {
      if (newest && io::read_text(*newest) == text) return;
      io::write_text_atomically(kept, text);
      log::info("{} has changed; the earlier one is kept as {}", path.string(), kept.filename().string());
      return;
    }
    newest = kept;
  }
}

// A link would lead what a run writes, and what retention deletes, to another place.
void refuse_link(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_symlink(path, ignored)) return;
  fail(ExitCode::io,
       "{} is a symbolic link; a run writes into its own folder alone. Remove the link; to keep a run on another disk, "
       "set run.dir to a folder there, or link the run folder itself",
       path.string());
}

// Only what open() and start_log() make; anything else keeps the folder.
void remove_unused(const RunPaths& paths) noexcept {
  std::error_code ignored;
  if (fs::exists(paths.config(), ignored)) return;
  for (const fs::path& path : {paths.checkpoints(), paths.tensorboard()}) {
    if (fs::is_directory(path, ignored) && !fs::is_empty(path, ignored)) return;
  }
  for (const fs::path& path : {paths.checkpoints(), paths.tensorboard(), paths.log(), paths.lock(), paths.root}) {
    fs::remove(path, ignored);
  }
}

}  // namespace

RunFolder RunFolder::open(const fs::path& root) {
  RunPaths paths{root};
  const bool is_new = !io::exists(root);
  io::make_directories(root);
  std::optional<io::Lock> lock = io::Lock::try_acquire(paths.lock());
  if (!lock) {
    fail(ExitCode::checkpoint, "the run folder {} is in use by {}; wait for it to end, or give this run another folder",
         root.string(), holder_of(paths.lock()));
  }
  io::File::create(paths.lock()).write_all(own_name() + "\n");
  std::shared_ptr<void> remains;
  if (is_new) remains = std::shared_ptr<void>(nullptr, [paths](void*) { remove_unused(paths); });
  for (const fs::path& path : {paths.checkpoints(), paths.tensorboard(), paths.log()}) refuse_link(path);
  io::make_directories(paths.checkpoints());
  io::make_directories(paths.tensorboard());
  return {std::move(paths), std::move(*lock), std::move(remains)};
}

void RunFolder::start_log() const {
  log::add_file(paths_.log());
}

void RunFolder::write_config(std::string_view yaml) const {
  if (io::exists(paths_.config())) {
    const std::string old = io::read_text(paths_.config());
    if (old == yaml) return;
    keep_old(paths_.config(), old);
  }
  io::write_text_atomically(paths_.config(), yaml);
}

void RunFolder::write_environment(const Json& environment) const {
  if (io::exists(paths_.environment())) {
    const std::string old = io::read_text(paths_.environment());
    const Json parsed = Json::parse(old, nullptr, /*allow_exceptions=*/false);
    if (!parsed.is_object() || lasting_environment(parsed) != lasting_environment(environment)) {
      keep_old(paths_.environment(), old);
    }
  }
  io::write_text_atomically(paths_.environment(),
                            environment.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace t6::train
