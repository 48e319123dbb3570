// Checkpoints: a folder a step, written so that what carries its final name is complete, and read only when intact.
//
//   DIR/step-00001200/manifest.json   what must be in the folder, byte for byte (manifest.h)
//   DIR/step-00001200/rank-00000.h5   what rank 0 had of the tensors, as HDF5: whole ones named as in State, parts
//                                     NAME@BEGIN as one row
//   DIR/.tmp-step-00001200/           being written          .old-step-.../   being replaced by the same step
//   DIR/.trash-step-00000400/         being deleted
//
// Commit protocol: free-space check, .tmp folder, every rank its file (closed, fsynced, hashed), manifest (fsynced),
// fsync of the folder, rename, fsync of DIR, retention. There is no "latest" file: the newest intact step is it. A
// kill or power cut at any instant leaves the older checkpoints, or these and the new one.
//
// A checkpoint does not depend on how many ranks saved it: any number of them can load it, each its own part.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace t6::checkpoint {

namespace fs = std::filesystem;

// The ranks that save and load together, each with a State of its own, on a file system that all of them see. Where a
// function takes them, every rank calls it, and all return or throw the same (other than what set() is given). Without
// them: one rank.
struct Peers {
  int rank = 0;
  int world = 1;
  // The text of every rank, in their order. What it throws ends the call.
  std::function<std::vector<std::string>(std::string_view)> all_gather = {};
};

// This rank's elements [begin, begin + count) of a tensor of the training state, as it is without any padding. A rank
// may have several ranges of one tensor.
struct TensorRef {
  static constexpr int64_t kAll = -1;

  std::string name;  // "params/<name>", "adamw/m/<name>", "adamw/v/<name>": printable, parts separated by '/', no '@'
  DType dtype = DType::f32;
  Shape shape;                             // of the whole tensor; at least one element
  std::function<Tensor()> get;             // for saving: any device; called once a save
  std::function<void(const Tensor&)> set;  // for loading: a CPU tensor of its own
  // Of the flattened tensor. kAll: get and set have the whole tensor in its shape. Otherwise they have [count]; with 0
  // elements neither is called: the tensor is only known to this rank.
  int64_t begin = 0;
  int64_t count = kAll;

  int64_t size() const { return count == kAll ? shape.numel() : count; }
};

// A contiguous tensor that is saved from and loaded into as it stands.
TensorRef tensor_ref(std::string name, const Tensor& tensor);

struct State {
  std::vector<TensorRef> tensors;                     // saved in this order; over all ranks each element once
  nlohmann::json scalars = nlohmann::json::object();  // step counters, data position, ...; finite numbers; of rank 0
};

// Which checkpoints a save keeps: the newest keep_last intact ones up to its own step, and every multiple of keep_every
// steps. Later steps are not touched; nor are damaged ones, which are not counted. To know, what this process has
// neither saved nor loaded is read once when it would be counted, file i by rank i % world.
struct Retention {
  int keep_last = 3;       // >= 1
  int64_t keep_every = 0;  // steps; 0: none
};

struct SaveOptions {
  Retention retention;
  nlohmann::json facts = nlohmann::json::object();  // config hash, data hash, environment: recorded, not interpreted
  std::function<void()> progress = {};              // called by all ranks before each older checkpoint that is read
};

struct Saved {
  fs::path path;
  uint64_t bytes = 0;
  std::vector<std::string> warnings;  // old checkpoints that could not be deleted: the save itself is complete
};

// Once at the start of a run, by the holder of the run folder's lock: creates `dir` and removes what an interrupted
// save left. Error(io).
void open_folder(const fs::path& dir);

// An upper bound of what a save of `state`, this rank's, takes on disk.
uint64_t bytes_needed(const State& state);
// Error(io) with the bytes needed by all ranks and free, as rank 0 sees it, when not one checkpoint fits.
void require_space(const fs::path& dir, const State& state, const Peers& peers = {});

// Saves `state` as step >= 0, replacing a checkpoint of that step. A function of its arguments alone, so that another
// thread can run it on a snapshot. Memory: one tensor at a time. Error(io), with bytes needed and free, at the first
// call that fails on any rank, which is named; then nothing of the new checkpoint is left and the older ones are as
// they were (only if the very last fsync fails the new one may be there, complete).
Saved save(const fs::path& dir, int64_t step, const State& state, const SaveOptions& options = {},
           const Peers& peers = {});

// The same in three calls, for a save whose writing runs beside other work:
// - all ranks: room for all parts, and an empty temporary folder. Error(io) as above.
void begin(const fs::path& dir, int64_t step, const State& state, const Peers& peers = {});
// - each rank on its own, from any thread: writes, closes, fsyncs and hashes its file. Returns the report for complete,
//   also of a failure: throws nothing.
std::string write_part(const fs::path& dir, int64_t step, const State& state, int rank = 0, int world = 1) noexcept;
//   The report of a rank that could not begin to, called where it handles the reason.
std::string report_failure(int64_t step, const State& state, int rank = 0, int world = 1) noexcept;
// - all ranks, each with its report: commit and retention by rank 0, or what a failed save does. After begin it is
//   always called, or the temporary folder stays until open_folder.
Saved complete(const fs::path& dir, int64_t step, const std::string& report, const SaveOptions& options = {},
               const Peers& peers = {});

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

// Loads the newest intact checkpoint of `dir` into `state` (its scalars are not changed), whatever the number of ranks
// that saved it; ranges may be any and overlap. Sizes and hashes of all its files are verified before the first set(),
// file i by rank i % world; then each rank reads what it asks for, one TensorRef in memory at a time. A part of a file
// that is asked for whole is compared with its own hash, too. Empty when `dir` has no checkpoint at all;
// Error(checkpoint) when none of those there is intact, when the ranks do not see the same ones, or when names, dtypes
// or shapes of all ranks together differ from the model's: then all differences are counted and the first are listed.
std::optional<Loaded> load(const fs::path& dir, const State& state, const LoadOptions& options = {},
                           const Peers& peers = {});
// The same for one checkpoint (DIR/step-...), without falling back.
Loaded load_one(const fs::path& path, const State& state, const LoadOptions& options = {}, const Peers& peers = {});

// The same into a state that depends on what the checkpoint says about itself: state_of gets that, its warnings empty,
// once the files are verified, and again for an older checkpoint where a newer one proves to be damaged.
using StateOf = std::function<State(const Loaded& about)>;
std::optional<Loaded> load(const fs::path& dir, const StateOf& state_of, const LoadOptions& options = {},
                           const Peers& peers = {});
Loaded load_one(const fs::path& path, const StateOf& state_of, const LoadOptions& options = {},
                const Peers& peers = {});

// A checkpoint by its name and manifest; no payload is read.
struct Entry {
  fs::path path;
  int64_t step = 0;
  uint64_t bytes = 0;  // as the manifest says; 0 when damaged
  size_t tensor_count = 0;
  int world = 0;       // ranks that saved it; 0 when damaged
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
  size_t parts = 1;  // ranges it was saved in
};
struct Inspected {
  fs::path path;
  int64_t step = 0;
  int world = 1;  // ranks that saved it
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
