// Finding out whether a checkpoint is what its manifest says, and reading elements from one that is.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/io.h"
#include "checkpoint/agreement.h"
#include "checkpoint/hdf5_reader.h"
#include "checkpoint/manifest.h"

namespace t6::checkpoint {

// The step in the folder's name (a slash at the end does not matter), or -1.
int64_t folder_step(const fs::path& folder);

// Says which files of a checkpoint, by rank, a reader looks at.
using Chosen = std::function<bool(int rank)>;
inline bool all_files(int) {
  return true;
}

// The manifest, with every chosen file of it there in its size. Throws Damage.
Manifest read_manifest(const fs::path& folder, const Chosen& chosen = all_files);

// A checkpoint whose chosen files were found right, byte for byte; others are for other ranks to look at. Files that
// were hashed stay open, so that these bytes are what is read.
class IntactCheckpoint {
 public:
  // Throws Damage.
  explicit IntactCheckpoint(const fs::path& folder, const Chosen& chosen = all_files);

  const Manifest& manifest() const { return manifest_; }

  // One part of a tensor, [count], compared with its own hash. Throws Damage.
  Tensor read(const ManifestTensor& tensor, const ManifestPart& part);
  // Elements [begin, begin + into.numel()) of a tensor, into a CPU tensor of its dtype; parts that are read whole are
  // compared with their own hashes. Throws Damage.
  void read(const ManifestTensor& tensor, int64_t begin, const Tensor& into);

 private:
  Hdf5Reader& reader(int rank);
  void read(const ManifestTensor& tensor, const ManifestPart& part, int64_t begin, const Tensor& into);

  fs::path folder_;
  Manifest manifest_;
  std::map<int, io::File> hashed_;
  std::map<int, Hdf5Reader> readers_;
};

// Why `folder` is not intact, empty when it is. `deep` also reads every tensor and compares it with its own hash.
// `bytes`: of its files, when the manifest can be read.
std::string find_damage(const fs::path& folder, bool deep, uint64_t& bytes);
// What can be seen without reading payload.
std::string visible_damage(const fs::path& folder);
// What this process was told of `folder` by remember_damage, as long as sizes and times of all files are the same, or
// what can be seen; empty: intact. Nothing where all of it would have to be read to know.
std::optional<std::string> known_damage(const fs::path& folder);
// All of `folder` was just written or read; `damage` empty: it is intact.
void remember_damage(const fs::path& folder, std::string damage);

}  // namespace t6::checkpoint
