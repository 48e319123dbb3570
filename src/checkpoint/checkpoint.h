// Checkpoints: a folder a step, written so that what carries its final name is complete, and read only when intact.
//
//   DIR/step-00001200/manifest.json   what must be in the folder, byte for byte (manifest.h)
//   DIR/step-00001200/rank-00000.h5   tensors of rank 0 as HDF5, named as in State
//   DIR/.tmp-step-00001200/           being written          .old-step-.../   being replaced by the same step
//   DIR/.trash-step-00000400/         being deleted
//
// Commit protocol: free-space check, .tmp folder, every rank its file (closed, fsynced, hashed), manifest (fsynced),
// fsync of the folder, rename, fsync of DIR, retention. There is no "latest" file: the newest intact step is it. A
// kill or power cut at any instant leaves the older checkpoints, or these and the new one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace t6::checkpoint {

namespace fs = std::filesystem;

// One tensor of the training state, as it is without any padding.
struct TensorRef {
  std::string name;  // "params/<name>", "adamw/m/<name>", "adamw/v/<name>": printable, parts separated by '/'
  DType dtype = DType::f32;
  Shape shape;                             // at least one element
  std::function<Tensor()> get;             // for saving: shape and dtype as said, any device; called once a save
  std::function<void(const Tensor&)> set;  // for loading: a CPU tensor of its own, shape and dtype as said
};

// A contiguous tensor that is saved from and loaded into as it stands.
TensorRef tensor_ref(std::string name, const Tensor& tensor);

struct State {
  std::vector<TensorRef> tensors;                     // saved in this order
  nlohmann::json scalars = nlohmann::json::object();  // step counters, data position, ...; finite numbers only
};

// Which checkpoints a save keeps: the newest keep_last up to its own step, and every multiple of keep_every steps.
// Later steps are not touched.
struct Retention {
  int keep_last = 3;       // >= 1
  int64_t keep_every = 0;  // steps; 0: none
};

struct SaveOptions {
  Retention retention;
  nlohmann::json facts = nlohmann::json::object();  // config hash, data hash, environment: recorded, not interpreted
};

struct Saved {
  fs::path path;
  uint64_t bytes = 0;
  std::vector<std::string> warnings;  // old checkpoints that could not be deleted: the save itself is complete
};

// Once at the start of a run, by the holder of the run folder's lock: creates `dir` and removes what an interrupted
// save left. Error(io).
void open_folder(const fs::path& dir);

// An upper bound of what a save of `state` takes on disk.
uint64_t bytes_needed(const State& state);
// Error(io) with the bytes needed and free when not one checkpoint fits.
void require_space(const fs::path& dir, const State& state);

// Saves `state` as step >= 0, replacing a checkpoint of that step. A function of its arguments alone, so that another
// thread can run it on a snapshot. Memory: one tensor at a time. Error(io), with bytes needed and free, at the first
// call that fails; then nothing of the new checkpoint is left and the older ones are as they were (only if the very
// last fsync fails the new one may be there, complete).
Saved save(const fs::path& dir, int64_t step, const State& state, const SaveOptions& options = {});

struct Loaded {
  fs::path path;
  int64_t step = 0;
  nlohmann::json scalars;
  nlohmann::json facts;
  std::vector<std::string> warnings;  // newer checkpoints that were damaged: file and reason; also logged
};

struct LoadOptions {
  // Only tensors whose names start with this are compared and read ("params/" to evaluate).
  std::string prefix;
};

// Loads the newest intact checkpoint of `dir` into `state` (its scalars are not changed). Sizes and hashes of all its
// files are verified before the first set(). Empty when `dir` has no checkpoint at all; Error(checkpoint) when none of
// those there is intact, or when names, dtypes or shapes differ from the model's: then all differences are counted and
// the first are listed.
std::optional<Loaded> load(const fs::path& dir, const State& state, const LoadOptions& options = {});
// The same for one checkpoint (DIR/step-...), without falling back.
Loaded load_one(const fs::path& path, const State& state, const LoadOptions& options = {});

// A checkpoint by its name and manifest; no payload is read.
struct Entry {
  fs::path path;
  int64_t step = 0;
  uint64_t bytes = 0;  // as the manifest says; 0 when damaged
  size_t tensor_count = 0;
  std::string damage;  // empty: manifest readable and every file there with its size
};
// Oldest first. A missing folder has none.
std::vector<Entry> list(const fs::path& dir);

struct Verified {
  fs::path path;
  int64_t step = 0;
  uint64_t bytes = 0;
  double seconds = 0;
  std::string damage;  // file and reason; empty when intact
};
// Reads every byte of `path`: one checkpoint, or a folder of them, oldest first. `deep` also reads every tensor through
// HDF5 and compares it with its own hash. Error(checkpoint) when `path` is neither.
std::vector<Verified> verify(const fs::path& path, bool deep = false);

struct TensorFacts {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  double norm = 0;          // Euclidean, over the finite elements
  double min = 0, max = 0;  // of the finite elements; 0 when there are none
  int64_t nan_count = 0, infinite_count = 0;
};
struct Inspected {
  fs::path path;
  int64_t step = 0;
  int world = 1;
  uint64_t bytes = 0;
  nlohmann::json scalars, facts;
  std::vector<TensorFacts> tensors;
};
// One checkpoint (of a folder of them: the newest), verified first. Error(checkpoint) when damaged or missing.
Inspected inspect(const fs::path& path);

// One object each, for --json.
nlohmann::json to_json(const Entry& entry);
nlohmann::json to_json(const Verified& verified);
nlohmann::json to_json(const Inspected& inspected);

}  // namespace t6::checkpoint
