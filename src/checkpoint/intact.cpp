#include "checkpoint/intact.h"

#include <sys/stat.h>

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "checkpoint/commit.h"

namespace t6::checkpoint {
namespace {

constexpr size_t kMaxOpenFiles = 256;  // of those hashed, and of those being read

// Runs f; a file that is missing, unreadable, cut or changed is Damage.
template <class F>
decltype(auto) or_damage(F&& f) {
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

std::string hash_of(const Tensor& tensor) {
  return io::hash_bytes({static_cast<const std::byte*>(tensor.raw()), tensor.bytes()});
}

// What this process knows of a checkpoint, as long as its files are those.
struct Knowledge {
  std::string files;  // hash of the manifest; size and time of every file
  std::string damage;
};
std::mutex knowledge_mutex;
std::map<std::string, Knowledge>& knowledge() {
  static std::map<std::string, Knowledge> all;
  return all;
}

std::string key_of(const fs::path& folder) {
  std::error_code ignored;
  return fs::absolute(folder, ignored).lexically_normal().string();
}

// Throws Damage.
std::string describe_files(const fs::path& folder) {
  const Manifest manifest = read_manifest(folder);
  std::string text = manifest.xxh3;
  for (const ManifestFile& file : manifest.files) {
    struct stat status {};
    if (::stat((folder / file.name).c_str(), &status) != 0) throw Damage{file.name + " is missing"};
    text += fmt::format(" {} {}.{}", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  }
  return text;
}

}  // namespace

int64_t folder_step(const fs::path& folder) {
  return step_of((folder.has_filename() ? folder : folder.parent_path()).filename().string());
}

Manifest read_manifest(const fs::path& folder, const Chosen& chosen) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) throw Damage{fmt::format("{} is not a folder", folder.string())};
  const fs::path path = folder / kManifestName;
  require_regular(path);
  Manifest manifest = or_damage([&] { return parse_manifest(io::read_text(path, kMaxManifestBytes), path.string()); });
  const int64_t step = folder_step(folder);
  if (step >= 0 && step != manifest.step) {
    throw Damage{fmt::format("{} is of step {}", path.string(), manifest.step)};
  }
  for (int rank = 0; rank < manifest.world; ++rank) {
    if (!chosen(rank)) continue;
    const ManifestFile& file = manifest.files[static_cast<size_t>(rank)];
    require_regular(folder / file.name);
    const uint64_t bytes = or_damage([&] { return io::File::open_read(folder / file.name).size(); });
    if (bytes != file.bytes) {
      throw Damage{fmt::format("{} has {} bytes, expected {}", (folder / file.name).string(), bytes, file.bytes)};
    }
  }
  return manifest;
}

IntactCheckpoint::IntactCheckpoint(const fs::path& folder, const Chosen& chosen)
    : folder_(folder), manifest_(read_manifest(folder, chosen)) {
  for (int rank = 0; rank < manifest_.world; ++rank) {
    if (!chosen(rank)) continue;
    const ManifestFile& expected = manifest_.files[static_cast<size_t>(rank)];
    const fs::path path = folder / expected.name;
    or_damage([&] {
      io::File file = io::File::open_read(path);
      if (io::hash_file(file) != expected.xxh3) {
        throw Damage{fmt::format("{}: its hash is not that of the manifest", path.string())};
      }
      if (hashed_.size() < kMaxOpenFiles) hashed_.emplace(rank, std::move(file));
    });
  }
}

Hdf5Reader& IntactCheckpoint::reader(int rank) {
  const auto found = readers_.find(rank);
  if (found != readers_.end()) return found->second;
  if (readers_.size() >= kMaxOpenFiles) readers_.clear();
  const fs::path path = folder_ / manifest_.files[static_cast<size_t>(rank)].name;
  const auto hashed = hashed_.find(rank);
  return or_damage([&]() -> Hdf5Reader& {
    Hdf5Reader opened(hashed != hashed_.end() ? hashed->second.duplicate() : io::File::open_read(path));
    if (opened.get_integer("step") != manifest_.step || opened.get_integer("rank") != rank ||
        opened.get_integer("world") != manifest_.world) {
      throw Damage{fmt::format("{} is of another step, rank or number of ranks", path.string())};
    }
    return readers_.emplace(rank, std::move(opened)).first->second;
  });
}

void IntactCheckpoint::read(const ManifestTensor& tensor, const ManifestPart& part, int64_t begin, const Tensor& into) {
  const std::string name = dataset_name(tensor.name, tensor.shape, part.begin, part.count);
  const Shape shape = dataset_shape(tensor.shape, part.count);
  or_damage([&] { reader(part.rank).read(name, shape, begin - part.begin, into); });
  if (into.numel() == part.count && hash_of(into) != part.xxh3) {
    throw Damage{fmt::format("{}: the hash of {} is not that of the manifest",
                             (folder_ / rank_file_name(part.rank)).string(), name)};
  }
}

Tensor IntactCheckpoint::read(const ManifestTensor& tensor, const ManifestPart& part) {
  const Tensor value = Tensor::empty({part.count}, tensor.dtype);
  read(tensor, part, part.begin, value);
  return value;
}

void IntactCheckpoint::read(const ManifestTensor& tensor, int64_t begin, const Tensor& into) {
  const int64_t end = begin + into.numel();
  T6_CHECK(begin >= 0 && end <= tensor.shape.numel(), "[checkpoint] {} has no elements [{}, {})", tensor.name, begin,
           end);
  auto part = std::partition_point(tensor.parts.begin(), tensor.parts.end(),
                                   [begin](const ManifestPart& p) { return p.begin + p.count <= begin; });
  for (; part != tensor.parts.end() && part->begin < end; ++part) {
    const int64_t first = std::max(begin, part->begin), last = std::min(end, part->begin + part->count);
    read(tensor, *part, first, into.slice(first - begin, {last - first}));
  }
}

std::string find_damage(const fs::path& folder, bool deep, uint64_t& bytes) {
  try {
    IntactCheckpoint checkpoint(folder);
    bytes = checkpoint.manifest().bytes();
    if (!deep) return {};
    for (const ManifestTensor& tensor : checkpoint.manifest().tensors) {
      for (const ManifestPart& part : tensor.parts) checkpoint.read(tensor, part);
    }
    return {};
  } catch (const Damage& damage) {
    return damage.reason;
  }
}

std::string visible_damage(const fs::path& folder) {
  try {
    read_manifest(folder);
    return {};
  } catch (const Damage& damage) {
    return damage.reason;
  }
}

std::optional<std::string> known_damage(const fs::path& folder) {
  try {
    const std::string files = describe_files(folder);
    const std::lock_guard lock(knowledge_mutex);
    const auto found = knowledge().find(key_of(folder));
    if (found == knowledge().end() || found->second.files != files) return std::nullopt;
    return found->second.damage;
  } catch (const Damage& damage) {
    return damage.reason;
  }
}

void remember_damage(const fs::path& folder, std::string damage) {
  try {
    Knowledge known{describe_files(folder), std::move(damage)};
    const std::lock_guard lock(knowledge_mutex);
    knowledge()[key_of(folder)] = std::move(known);
  } catch (const Damage&) {
    // Gone or changed in the meantime: nothing is known.
  }
}

}  // namespace t6::checkpoint
