// Checkpoints: manifests (signed by the target, so that the fuzzer gets past the hash), what a resumed run reads in
// them, and their HDF5 files. Refused with exit code 4, or written back as they were.
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/io.h"
#include "base/log.h"
#include "checkpoint/commit.h"
#include "checkpoint/hdf5_layout.h"
#include "checkpoint/hdf5_reader.h"
#include "checkpoint/hdf5_writer.h"
#include "checkpoint/manifest.h"
#include "fuzz/fuzz_target.h"
#include "train/training_state.h"

namespace t6::fuzz {
namespace {

using nlohmann::json;
constexpr std::string_view kHashKey = "\"manifest_xxh3\": \"";
constexpr std::string_view kTail = "\"\n}\n";

// 'r': the input as it is; otherwise with the hash that belongs to it.
void run_manifest(std::string_view input) {
  const std::string name(input.substr(0, input.find('\n')));
  const int64_t step = checkpoint::step_of(name);
  require(step < 0 || checkpoint::step_name(step) == name, "'{}' is taken for step {}", name, step);
  std::string text(input);
  if (!input.starts_with('r')) {
    text += std::string(kHashKey) + io::hash_bytes(std::as_bytes(std::span(input.data(), input.size()))) +
            std::string(kTail);
  }
  checkpoint::Manifest manifest;
  if (!accepts({ExitCode::checkpoint}, [&] { manifest = checkpoint::parse_manifest(text, "manifest.json"); })) return;
  const checkpoint::Manifest again = checkpoint::parse_manifest(checkpoint::to_text(manifest), "printed");
  require(again.step == manifest.step && again.world == manifest.world && again.scalars == manifest.scalars &&
              again.facts == manifest.facts && again.bytes() == manifest.bytes() &&
              again.files.size() == manifest.files.size() && again.tensors.size() == manifest.tensors.size(),
          "reads back as something else");
  for (size_t i = 0; i < again.files.size(); ++i) {
    const auto &a = again.files[i], &b = manifest.files[i];
    require(a.name == b.name && a.bytes == b.bytes && a.xxh3 == b.xxh3, "file {} reads back as something else", i);
  }
  for (size_t i = 0; i < again.tensors.size(); ++i) {
    const auto &a = again.tensors[i], &b = manifest.tensors[i];
    require(a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.parts.size() == b.parts.size(),
            "tensor {} reads back as something else", i);
    require(checkpoint::is_valid_tensor_name(b.name), "the name {}", b.name);
    int64_t end = 0;
    for (size_t j = 0; j < b.parts.size(); ++j) {
      const auto &c = a.parts[j], &d = b.parts[j];
      require(c.rank == d.rank && c.begin == d.begin && c.count == d.count && c.xxh3 == d.xxh3,
              "part {} of tensor {} reads back as something else", j, i);
      require(d.begin == end && d.count > 0 && d.rank >= 0 && d.rank < manifest.world, "part {} of tensor {}", j, i);
      end += d.count;
    }
    require(end == b.shape.numel(), "{} elements in the parts of tensor {}", end, i);
  }
}

json facts_of_this_start() {
  return {{"config", to_yaml(default_config())},
          {"data", {{"shards", 1}, {"tokens", 100}, {"fingerprint", "0123456789abcdef"}}},
          {"environment", {{"cpu", "x"}, {"threads", 2}}}};
}

// Scalars and facts, as a manifest with a right hash may hold them.
void run_resume(std::string_view input) {
  static const bool quiet = [] {
    spdlog::set_level(spdlog::level::off);
    return true;
  }();
  (void)quiet;
  const auto pieces = pieces_of(input, 2);
  const json scalars = json::parse(pieces[0], nullptr, false), facts = json::parse(pieces[1], nullptr, false);
  if (scalars.is_object()) {
    const checkpoint::Loaded loaded{"step-1", 1, scalars, json::object(), {}};
    train::RunPosition position;
    if (accepts({ExitCode::checkpoint}, [&] { position = train::position_of(loaded); })) {
      const checkpoint::Loaded written{"step-1", 1, train::to_scalars(position), json::object(), {}};
      const train::RunPosition again = train::position_of(written);
      require(again.tokens == position.tokens && again.consumed == position.consumed && again.loss == position.loss &&
                  again.validation.has_value() == position.validation.has_value(),
              "the position reads back as another one");
    }
    const json spikes = scalars.value("spikes", json());
    train::SpikeDetector detector({.window = 8});
    if (accepts({ExitCode::checkpoint}, [&] { detector.restore(spikes, "step-1"); })) {
      train::SpikeDetector again({.window = 8});
      again.restore(json::parse(detector.state().dump()), "written");
      require(again.state() == detector.state(), "the spike detector reads back as another one");
      detector.judge(1, 3, 1, true);
    }
  }
  if (facts.is_object()) {
    static const json here = facts_of_this_start();
    const checkpoint::Loaded loaded{"step-1", 1, json::object(), facts, {}};
    accepts({ExitCode::checkpoint}, [&] { train::require_same_run(default_config(), here, loaded); });
  }
}

const std::vector<std::pair<std::string, Shape>>& tensors() {
  static const std::vector<std::pair<std::string, Shape>> all{
      {"params/a", Shape{2, 3}}, {"params/deep/b", Shape{5}}, {"c", Shape{}}};
  return all;
}

// Whatever becomes of the child in which libhdf5 opens the file: refused, or the same tensors each time.
void run_hdf5(std::string_view input) {
  static MemoryFile memory;
  static uint64_t ended = 0;
  const io::File file = io::File::open_read(memory.hold(input));
  std::optional<checkpoint::Hdf5Reader> reader;
  try {
    reader.emplace(file.duplicate());
  } catch (const Error& error) {
    require(error.code() == ExitCode::checkpoint, "exit code {}: {}", static_cast<int>(error.code()), error.what());
    if (std::string_view(error.what()).find("process of its own") != std::string_view::npos) {
      find("checkpoint_hdf5")->summary = fmt::format("{} inputs ended the child process, and nothing else", ++ended);
    }
    return;
  }
  accepts({ExitCode::checkpoint}, [&] { reader->get_integer("step"); });
  for (const auto& tensor : tensors()) {
    const Tensor into = Tensor::empty(tensor.second, DType::f32);
    accepts({ExitCode::checkpoint}, [&] { reader->read(tensor.first, tensor.second, 0, into); });
  }
}

// What a child may say of a file of this size that was taken over: every chunk lies in the file, and the chunks are the
// tensor.
void run_hdf5_told(std::string_view input) {
  constexpr uint64_t kFileBytes = 100'000;
  const std::optional<checkpoint::Hdf5Layout> told = checkpoint::parse_told(std::string(input), kFileBytes);
  if (!told) return;
  for (const auto& [name, dataset] : told->datasets) {
    for (const uint64_t address : dataset.addresses) {
      require(address < kFileBytes && dataset.chunk_bytes() < kFileBytes - address, "{}: {} bytes at {}", name,
              dataset.chunk_bytes(), address);
    }
    const int64_t slices = dataset.shape.numel() / dataset.slice_elements;
    require(dataset.chunk_elements > 0 && dataset.chunk_elements <= dataset.slice_elements &&
                slices * dataset.slice_elements == dataset.shape.numel() &&
                static_cast<uint64_t>(slices * dataset.chunks_per_slice()) == dataset.addresses.size(),
            "{}: {} chunks of {} elements, slices of {}, {} in all", name, dataset.addresses.size(),
            dataset.chunk_elements, dataset.slice_elements, dataset.shape.numel());
  }
}

std::vector<std::string> hdf5_told_seeds() {
  return {R"({"integers":{"step":5},"refused":{"x":"a group"},"datasets":{)"
          R"("a":{"dims":[2,3],"chunk":[1,3],"dtype":0,"addresses":[400,900]},)"
          R"("b":{"dims":[5],"chunk":[2],"dtype":2,"addresses":[1000,2000,3000]}}})",
          R"({"integers":{},"refused":{},"datasets":{"a":{"dims":[2,3,4],"chunk":[1,2,4],"dtype":1,"addresses":[]}}})",
          R"({"integers":{},"refused":{},"datasets":{"a":{"dims":[4],"chunk":[4],"dtype":0,"addresses":[99990]}}})",
          R"({"integers":{},"refused":{},"datasets":{"a":{"dims":[4294967296,4294967296],"chunk":[1,1],)"
          R"("dtype":0,"addresses":[99999]}}})"};
}

checkpoint::Manifest example() {
  const std::string hash = "0123456789abcdef0123456789abcdef";
  checkpoint::Manifest manifest;
  manifest.step = 1200;
  manifest.world = 2;
  manifest.files = {{"rank-00000.h5", 5000, hash}, {"rank-00001.h5", 70, hash}};
  manifest.tensors = {{"params/a", DType::f32, Shape{2, 3}, {{0, 0, 2, hash}, {1, 2, 1, hash}, {0, 3, 3, hash}}},
                      {"params/b", DType::bf16, Shape{}, {{1, 0, 1, hash}}}};
  manifest.scalars = {{"tokens", 18446744073709551615ull}, {"loss", 0.1}, {"tiny", 5e-324}};
  manifest.facts = {{"config", "abc"}, {"cpu", {{"name", "x"}}}};
  return manifest;
}

std::vector<std::string> manifest_seeds() {
  const std::string text = checkpoint::to_text(example());
  const std::string body = text.substr(0, text.rfind(kHashKey));
  checkpoint::Manifest bare;
  bare.files = {{"rank-00000.h5", 1, example().files[0].xxh3}};
  const std::string other = checkpoint::to_text(bare);
  const std::string first_version =
      R"({"format":"t6-checkpoint","version":1,"step":3,"world":1,"scalars":{},"facts":{},)"
      R"("files":[{"name":"rank-00000.h5","bytes":99,"xxh3":"0123456789abcdef0123456789abcdef"}],)"
      R"("tensors":[{"name":"a","dtype":"f32","shape":[2],"rank":0,"xxh3":"0123456789abcdef0123456789abcdef"}],)";
  return {text,
          "r" + text,
          body,
          first_version,
          other.substr(0, other.rfind(kHashKey)),
          "step-00001200\n",
          "{\"a\":1,\"a\":2,"};
}

std::vector<std::string> resume_seeds() {
  const std::string scalars =
      R"({"step":5,"tokens":100,"data_hash":[1,18446744073709551615],"loss":3.25,"validation":{"step":4,"loss":3.5}})";
  json spikes = json::parse(scalars);
  spikes["spikes"] = train::SpikeDetector({}).state();
  json other = facts_of_this_start();
  other["data"]["tokens"] = 101;
  json elsewhere = facts_of_this_start();
  elsewhere["environment"]["cpu"] = {{"name", "y"}};
  return {scalars + kCut + facts_of_this_start().dump(),
          scalars + kCut + other.dump(),
          spikes.dump() + kCut + "{}",
          scalars + kCut + elsewhere.dump(),
          "{\"tokens\":1e300}\x1e{\"config\":\"train: {steps: 0}\"}",
          "{}\x1e{\"config\":\"\",\"data\":5,\"environment\":[1]}",
          "{}\x1e{\"config\":\"\"}"};
}

std::vector<std::string> hdf5_seeds() {
  const std::filesystem::path path = scratch_folder() / "checkpoint.h5";
  std::filesystem::remove(path);
  checkpoint::Hdf5Writer writer(path);
  writer.set_attribute("step", 5);
  for (const auto& [name, shape] : tensors()) {
    const Tensor tensor = Tensor::empty(shape, DType::f32);
    std::memset(tensor.raw(), 0x3f, tensor.bytes());
    writer.write(name, tensor);
  }
  writer.close();
  return {io::read_text(path), source_file("tests/data/hostile/crash.h5")};
}

Registered manifest_target({"manifest", "manifest.json of checkpoints", &run_manifest, &manifest_seeds, 2048});
Registered resume_target({"resume", "where a run stands, of a manifest", &run_resume, &resume_seeds, 2048});
// Read line by line by CMake.
Registered hdf5_told_target({"checkpoint_hdf5_told", "what that child tells", &run_hdf5_told, &hdf5_told_seeds, 2048});
Registered hdf5_target({"checkpoint_hdf5", "tensors of a checkpoint, in a child", &run_hdf5, &hdf5_seeds, 16384, true});

}  // namespace
}  // namespace t6::fuzz
