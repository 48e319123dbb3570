// Saving checkpoints: what each rank writes and reports, and what becomes of it. commit.h has the protocol.
#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "base/log.h"
#include "checkpoint/agreement.h"
#include "checkpoint/commit.h"
#include "checkpoint/hdf5_writer.h"
#include "checkpoint/intact.h"
#include "checkpoint/manifest.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

// What is not a tensor: superblock, groups, manifest with config, data hash and environment.
constexpr uint64_t kFixedBytes = uint64_t{256} << 10;
constexpr uint64_t kManifestBytesATensor = 512;

void check_scalars(const json& scalars) {
  T6_CHECK(scalars.is_object(), "[checkpoint] expected scalars as a JSON object");
  try {
    T6_CHECK(json::parse(scalars.dump()) == scalars,
             "[checkpoint] scalars do not survive JSON: are all numbers finite?");
  } catch (const json::exception& error) {
    fail(ExitCode::internal, "[checkpoint] expected scalars in UTF-8: {}", error.what());
  }
}

void check_state(int64_t step, const State& state) {
  T6_CHECK(step >= 0, "[checkpoint] expected a step >= 0, got {}", step);
  check_scalars(state.scalars);
  std::map<std::string, const TensorRef*> first;
  std::map<std::string, std::map<int64_t, int64_t>> ranges;  // begin and end of each
  for (const TensorRef& ref : state.tensors) {
    T6_CHECK(is_valid_tensor_name(ref.name), "[checkpoint] not a valid tensor name: \"{}\"", ref.name);
    T6_CHECK(ref.shape.numel() > 0, "[checkpoint] {} has no elements", ref.name);
    T6_CHECK(ref.begin >= 0 && ref.size() >= 0 && ref.begin <= ref.shape.numel() - ref.size(),
             "[checkpoint] {} {} has no elements [{}, {})", ref.name, to_string(ref.shape), ref.begin,
             ref.begin + ref.size());
    const TensorRef& other = *first.emplace(ref.name, &ref).first->second;
    T6_CHECK(other.dtype == ref.dtype && other.shape == ref.shape, "[checkpoint] {} is {} {} and {} {}", ref.name,
             name_of(other.dtype), to_string(other.shape), name_of(ref.dtype), to_string(ref.shape));
    if (ref.size() == 0) continue;
    const bool added = ranges[ref.name].emplace(ref.begin, ref.begin + ref.size()).second;
    T6_CHECK(added, "[checkpoint] tensor {} comes twice from element {}", ref.name, ref.begin);
  }
  for (const auto& [name, of_one] : ranges) {
    int64_t end = 0;
    for (const auto& [range_begin, range_end] : of_one) {
      T6_CHECK(range_begin >= end, "[checkpoint] elements of {} from {} come twice", name, range_begin);
      end = range_end;
    }
  }
}

std::string amount(uint64_t bytes) {
  return fmt::format("{} ({} bytes)", format_bytes(static_cast<double>(bytes)), bytes);
}

void require_room(const fs::path& dir, uint64_t needed) {
  const uint64_t available = io::free_bytes(dir);
  if (available >= needed) return;
  fail(
      ExitCode::io,
      "no room for a checkpoint in {}: it needs {}, and {} are free; free some space, keep fewer checkpoints or choose "
      "another run folder",
      dir.string(), amount(needed), amount(available));
}

// How rank 0 tells of its own failures.
std::string own_name(int world) {
  return world > 1 ? "rank 0: " : "";
}

// Undoes the save, and throws what is being handled with what the user needs to know. `who`: "", or the rank.
[[noreturn]] void give_up(const fs::path& dir, int64_t step, uint64_t needed, const std::string& who) {
  try {
    throw;
  } catch (const Error& error) {
    abandon(dir, step);
    if (error.code() != ExitCode::io) throw;
    fail(ExitCode::io,
         "the checkpoint of step {} could not be saved: {}{}; it needs {}, and {} are free; older checkpoints are "
         "intact",
         step, who, error.what(), amount(needed), amount(io::free_bytes(dir)));
  } catch (...) {
    abandon(dir, step);
    throw;
  }
}

// Writes the file of one rank. `report` gets the file and its parts.
void write_file(const fs::path& folder, int64_t step, const State& state, int rank, int world, json& report) {
  const std::string name = rank_file_name(rank);
  Hdf5Writer writer(folder / name);
  writer.set_attribute("step", step);
  writer.set_attribute("rank", int64_t{rank});
  writer.set_attribute("world", int64_t{world});
  json tensors = json::array();
  for (const TensorRef& ref : state.tensors) {
    const int64_t count = ref.size();
    std::string hash;
    if (count > 0) {
      const Tensor tensor = ref.get();
      const Shape expected = ref.count == TensorRef::kAll ? ref.shape : Shape{count};
      T6_CHECK(tensor.shape() == expected && tensor.dtype() == ref.dtype, "[checkpoint] {}: expected {} {}, got {} {}",
               ref.name, name_of(ref.dtype), to_string(expected), name_of(tensor.dtype()), to_string(tensor.shape()));
      hash = writer.write(dataset_name(ref.name, ref.shape, ref.begin, count),
                          tensor.view(dataset_shape(ref.shape, count)));
    }
    if (count == 0 && rank != 0) continue;  // rank 0 names all
    tensors.push_back(json::array({ref.name, static_cast<int>(ref.dtype),
                                   std::vector<int64_t>(ref.shape.begin(), ref.shape.end()), ref.begin, count, hash}));
  }
  const Hdf5Writer::Closed closed = writer.close();
  report["file"] = {{"bytes", closed.bytes}, {"xxh3", closed.xxh3}};
  report["tensors"] = std::move(tensors);
}

// What a rank tells of its part before there is any.
json empty_report(int64_t step, int rank, int world) {
  return {{"step", step}, {"rank", rank}, {"world", world}, {"needed", 0}, {"code", 0}, {"error", ""}};
}

// The manifest of what all ranks report; fails as the lowest rank did that could not write.
Manifest merge(int64_t step, const std::vector<json>& reports) {
  std::vector<Outcome> outcomes;
  for (const json& report : reports) {
    const auto code = static_cast<ExitCode>(report.at("code").get<int>());
    outcomes.push_back({code == ExitCode::ok ? Outcome::Kind::done : Outcome::Kind::error, code, report.at("error")});
  }
  if (const Outcome failure = first_failure(outcomes); failure.failed()) rethrow(failure);
  Manifest manifest;
  manifest.step = step;
  manifest.world = static_cast<int>(reports.size());
  manifest.scalars = reports.front().at("scalars");
  std::map<std::string, size_t> places;
  for (int rank = 0; rank < manifest.world; ++rank) {
    const json& report = reports[static_cast<size_t>(rank)];
    T6_CHECK(report.at("step") == step && report.at("rank") == rank && report.at("world") == manifest.world,
             "[checkpoint] rank {} of {} saves step {}, and it reports of rank {} of {} and step {}", rank,
             manifest.world, step, report.at("rank").dump(), report.at("world").dump(), report.at("step").dump());
    manifest.files.push_back({rank_file_name(rank), report.at("file").at("bytes"), report.at("file").at("xxh3")});
    for (const json& part : report.at("tensors")) {
      const std::string name = part.at(0);
      const auto dtype = static_cast<DType>(part.at(1).get<int>());
      const Shape shape(part.at(2).get<std::vector<int64_t>>());
      const auto [place, added] = places.emplace(name, manifest.tensors.size());
      if (added) manifest.tensors.push_back({name, dtype, shape, {}});
      ManifestTensor& tensor = manifest.tensors[place->second];
      T6_CHECK(tensor.dtype == dtype && tensor.shape == shape, "[checkpoint] {} is {} {}, and on rank {} {} {}", name,
               name_of(tensor.dtype), to_string(tensor.shape), rank, name_of(dtype), to_string(shape));
      if (part.at(4) > 0) tensor.parts.push_back({rank, part.at(3), part.at(4), part.at(5)});
    }
  }
  for (ManifestTensor& tensor : manifest.tensors) {
    std::sort(tensor.parts.begin(), tensor.parts.end(),
              [](const ManifestPart& a, const ManifestPart& b) { return a.begin < b.begin; });
  }
  return manifest;
}

// Rank 0's part of giving a checkpoint its name.
Saved finish(const fs::path& dir, int64_t step, const std::vector<std::string>& texts, const SaveOptions& options) {
  Saved saved{dir / step_name(step), 0, {}};
  uint64_t needed = 0;
  std::string who;  // failures of other ranks are told with their names
  try {
    std::vector<json> reports;
    for (const std::string& text : texts) {
      reports.push_back(json::parse(text));
      needed += reports.back().at("needed").get<uint64_t>();
    }
    Manifest manifest = merge(step, reports);
    manifest.facts = options.facts;
    who = own_name(manifest.world);
    const std::string text = to_text(manifest);
    saved.bytes = manifest.bytes() + text.size();
    saved.warnings = commit(dir, step, text);
  } catch (...) {
    give_up(dir, step, needed, who);
  }
  remember_damage(saved.path, {});
  return saved;
}

// The part of retention that is rank 0's: the next checkpoint that all ranks are to read, or empty when old ones are
// deleted, with warnings.
fs::path retain_or_read(const fs::path& dir, int64_t step, const SaveOptions& options, std::set<fs::path>& read,
                        Saved& saved) {
  try {
    if (const fs::path next = unread(dir, step, options.retention, read); !next.empty()) {
      read.insert(next);
      return next;
    }
  } catch (const Error&) {
    // retain meets it again, and says so.
  }
  for (std::string& warning : retain(dir, step, options.retention)) saved.warnings.push_back(std::move(warning));
  for (const std::string& warning : saved.warnings) log::warn("checkpoint of step {}: {}", step, warning);
  return {};
}

// All ranks: reads a checkpoint, file i by rank i % world, for rank 0 to know of its damage.
void find_damage_together(const fs::path& path, const Peers& peers) {
  Outcome mine;
  try {
    IntactCheckpoint(path, [&](int rank) { return rank % peers.world == peers.rank; });
  } catch (...) {
    mine = current_failure();
  }
  const Outcome failure = first_failure(share(peers, mine));
  if (peers.rank == 0 && failure.kind != Outcome::Kind::error) remember_damage(path, failure.text);
}

// Names of files may be any bytes.
std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// What `f` returns on rank 0, or the exception it throws there, on all ranks.
template <class F>
std::string by_rank_0(const Peers& peers, F&& f) {
  Outcome outcome;
  if (peers.rank == 0) outcome = outcome_of(peers, f);
  outcome = share(peers, outcome).front();
  if (outcome.failed()) rethrow(outcome);
  return outcome.text;
}

// The sum over ranks of what this save needs, each rank's state checked.
uint64_t agree_on_need(const Peers& peers, int64_t step, const State& state) {
  const Outcome mine = outcome_of(peers, [&] {
    check_state(step, state);
    return std::to_string(bytes_needed(state));
  });
  uint64_t sum = 0;
  for (const Outcome& outcome : agree(peers, mine)) sum += std::stoull(outcome.text);
  return sum;
}

}  // namespace

TensorRef tensor_ref(std::string name, const Tensor& tensor) {
  return {.name = std::move(name),
          .dtype = tensor.dtype(),
          .shape = tensor.shape(),
          .get = [tensor] { return tensor; },
          .set = [tensor](const Tensor& value) { tensor.copy_from(value); }};
}

void open_folder(const fs::path& dir) {
  io::make_directories(dir);
  // A kill may have come between the folder's making and its parent's fsync.
  io::sync_directory(io::parent_of(dir));
  clean_folder(dir);
}

uint64_t bytes_needed(const State& state) {
  uint64_t bytes = kFixedBytes + 2 * state.scalars.dump().size();
  for (const TensorRef& ref : state.tensors) {
    bytes += kManifestBytesATensor;
    if (ref.size() > 0) bytes += stored_bytes(ref.dtype, dataset_shape(ref.shape, ref.size()));
  }
  return bytes;
}

void require_space(const fs::path& dir, const State& state, const Peers& peers) {
  const uint64_t needed = agree_on_need(peers, 0, state);
  by_rank_0(peers, [&] {
    require_room(dir, needed);
    return std::string();
  });
}

void begin(const fs::path& dir, int64_t step, const State& state, const Peers& peers) {
  const uint64_t needed = agree_on_need(peers, step, state);
  by_rank_0(peers, [&] {
    io::make_directories(dir);
    require_room(dir, needed);
    try {
      make_temporary(dir, step);
    } catch (...) {
      give_up(dir, step, needed, own_name(peers.world));
    }
    return std::string();
  });
}

std::string write_part(const fs::path& dir, int64_t step, const State& state, int rank, int world) noexcept {
  try {
    check_state(step, state);
    json report = empty_report(step, rank, world);
    report["needed"] = bytes_needed(state);
    if (rank == 0) report["scalars"] = state.scalars;
    write_file(temporary_path(dir, step), step, state, rank, world, report);
    return dump(report);
  } catch (...) {
    return report_failure(step, state, rank, world);
  }
}

std::string report_failure(int64_t step, const State& state, int rank, int world) noexcept {
  const Outcome failure = current_failure();
  json report = empty_report(step, rank, world);
  report["code"] = static_cast<int>(failure.code);
  report["error"] = failure.text;
  try {
    report["needed"] = bytes_needed(state);
  } catch (const std::exception&) {
    // A state that cannot be saved at all; the failure says so.
  }
  return dump(report);
}

Saved complete(const fs::path& dir, int64_t step, const std::string& report, const SaveOptions& options,
               const Peers& peers) {
  const std::vector<std::string> reports = gather(peers, report);
  std::optional<Saved> saved;  // on rank 0
  std::set<fs::path> read;
  for (;;) {
    const json told = json::parse(by_rank_0(peers, [&] {
      if (!saved) saved = finish(dir, step, reports, options);
      const fs::path next = retain_or_read(dir, step, options, read, *saved);
      return dump(json{{"bytes", saved->bytes}, {"warnings", saved->warnings}, {"read", next.filename().string()}});
    }));
    const std::string next = told.at("read");
    if (next.empty()) return {dir / step_name(step), told.at("bytes"), told.at("warnings")};
    if (options.progress) options.progress();
    find_damage_together(dir / next, peers);
  }
}

Saved save(const fs::path& dir, int64_t step, const State& state, const SaveOptions& options, const Peers& peers) {
  begin(dir, step, state, peers);
  return complete(dir, step, write_part(dir, step, state, peers.rank, peers.world), options, peers);
}

}  // namespace t6::checkpoint
