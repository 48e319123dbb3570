#include "checkpoint/checkpoint.h"

#include <set>

#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "base/log.h"
#include "checkpoint/commit.h"
#include "checkpoint/hdf5_file.h"
#include "checkpoint/manifest.h"

namespace t6::checkpoint {
namespace {

// What is not a tensor: superblock, groups, manifest with config, data hash and environment.
constexpr uint64_t kFixedBytes = uint64_t{256} << 10;
constexpr uint64_t kManifestBytesATensor = 512;

void check_state(int64_t step, const State& state) {
  T6_CHECK(step >= 0, "[checkpoint] expected a step >= 0, got {}", step);
  T6_CHECK(state.scalars.is_object(), "[checkpoint] expected scalars as a JSON object");
  std::set<std::string> names;
  for (const TensorRef& tensor : state.tensors) {
    T6_CHECK(is_valid_name(tensor.name), "[checkpoint] not a valid tensor name: \"{}\"", tensor.name);
    T6_CHECK(names.insert(tensor.name).second, "[checkpoint] tensor {} comes twice", tensor.name);
    T6_CHECK(tensor.shape.numel() > 0, "[checkpoint] {} has no elements", tensor.name);
  }
}

std::string amount(uint64_t bytes) {
  return fmt::format("{} ({} bytes)", format_bytes(static_cast<double>(bytes)), bytes);
}

// Writes the file of one rank and enters it and its tensors in the manifest.
void write_rank_file(const fs::path& folder, int rank, const State& state, Manifest& manifest) {
  const std::string name = rank_file_name(rank);
  Hdf5Writer writer(folder / name);
  writer.set_attribute("step", manifest.step);
  writer.set_attribute("rank", int64_t{rank});
  writer.set_attribute("world", int64_t{manifest.world});
  for (const TensorRef& ref : state.tensors) {
    const Tensor tensor = ref.get();
    T6_CHECK(tensor.shape() == ref.shape && tensor.dtype() == ref.dtype, "[checkpoint] {}: expected {} {}, got {} {}",
             ref.name, name_of(ref.dtype), to_string(ref.shape), name_of(tensor.dtype()), to_string(tensor.shape()));
    manifest.tensors.push_back({rank, ref.name, ref.dtype, ref.shape, writer.write(ref.name, tensor)});
  }
  const Hdf5Writer::Closed closed = writer.close();
  manifest.files.push_back({name, closed.bytes, closed.xxh3});
}

}  // namespace

TensorRef tensor_ref(std::string name, const Tensor& tensor) {
  return {std::move(name), tensor.dtype(), tensor.shape(), [tensor] { return tensor; },
          [tensor](const Tensor& value) { tensor.copy_from(value); }};
}

void open_folder(const fs::path& dir) {
  io::make_directories(dir);
  // A kill may have come between the folder's making and its parent's fsync.
  io::sync_directory(io::parent_of(dir));
  clean_folder(dir);
}

uint64_t bytes_needed(const State& state) {
  uint64_t bytes = kFixedBytes + 2 * state.scalars.dump().size();
  for (const TensorRef& tensor : state.tensors) {
    bytes += stored_bytes(tensor.dtype, tensor.shape) + kManifestBytesATensor;
  }
  return bytes;
}

void require_space(const fs::path& dir, const State& state) {
  const uint64_t needed = bytes_needed(state), available = io::free_bytes(dir);
  if (available >= needed) return;
  fail(
      ExitCode::io,
      "no room for a checkpoint in {}: it needs {}, and {} are free; free some space, keep fewer checkpoints or choose "
      "another run folder",
      dir.string(), amount(needed), amount(available));
}

Saved save(const fs::path& dir, int64_t step, const State& state, const SaveOptions& options) {
  check_state(step, state);
  Saved saved{dir / step_name(step), 0, {}};
  io::make_directories(dir);
  require_space(dir, state);
  try {
    const fs::path folder = begin(dir, step);
    Manifest manifest;
    manifest.step = step;
    manifest.scalars = state.scalars;
    manifest.facts = options.facts;
    write_rank_file(folder, 0, state, manifest);
    const std::string text = to_text(manifest);
    saved.bytes = manifest.bytes() + text.size();
    saved.warnings = commit(dir, step, text);
  } catch (const Error& error) {
    abandon(dir, step);
    if (error.code() != ExitCode::io) throw;
    fail(ExitCode::io,
         "the checkpoint of step {} could not be saved: {}; it needs {}, and {} are free; older checkpoints are intact",
         step, error.what(), amount(bytes_needed(state)), amount(io::free_bytes(dir)));
  } catch (...) {
    abandon(dir, step);
    throw;
  }
  for (std::string& warning : retain(dir, step, options.retention)) saved.warnings.push_back(std::move(warning));
  for (const std::string& warning : saved.warnings) log::warn("checkpoint of step {}: {}", step, warning);
  return saved;
}

}  // namespace t6::checkpoint
