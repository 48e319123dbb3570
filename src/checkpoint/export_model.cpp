#include "checkpoint/export_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/output_folder.h"
#include "checkpoint/remote_code.h"
#include "checkpoint/weights_folder.h"

namespace t6::checkpoint {
namespace {

// config.json, card, tokenizer, code, index.
constexpr uint64_t kBytesBesideWeights = uint64_t{16} << 20;

// What an export writes, and what people lay beside it: generation_config.json.
bool wrote(const fs::directory_entry& entry) {
  std::error_code ignored;
  const std::string name = entry.path().filename().string();
  if (entry.symlink_status(ignored).type() != fs::file_type::regular) return false;
  const auto is_name = [&](const auto& other) { return name == other; };
  constexpr std::array kNames{"config.json",
                              "generation_config.json",
                              "README.md",
                              kRunFile,
                              "vocab.json",
                              "merges.txt",
                              "tokenizer.json",
                              "tokenizer_config.json",
                              "special_tokens_map.json"};
  const auto& code = remote_code_files();
  return is_export_weights(name) || std::any_of(kNames.begin(), kNames.end(), is_name) ||
         std::any_of(code.begin(), code.end(), [&](const RemoteCodeFile& file) { return name == file.name; });
}

constexpr OwnEntries kExport{.mark = "config.json", .wrote = &wrote, .program = "t6 export"};

// The approximations that `options` allows.
std::vector<std::string> require_fit(const ModelConfig& config, const ExportOptions& options) {
  Unfit unfit = unfit_for(config, options.format);
  const bool only_approximate = unfit.reasons.empty() && !unfit.approximations.empty();
  if (!options.approximate) {
    unfit.reasons.insert(unfit.reasons.end(), unfit.approximations.begin(), unfit.approximations.end());
  }
  if (!unfit.reasons.empty()) {
    fail(
        ExitCode::usage, "the format {} cannot say what this model is: {}{}", name_of(options.format),
        fmt::join(unfit.reasons, "; "),
        only_approximate ? ". With --approximate it is exported all the same, and logits differ by that rounding" : "");
  }
  return unfit.approximations;
}

// Of every parameter the tensors that it becomes.
class WeightsExport {
 public:
  WeightsExport(const ModelConfig& config, const ExportOptions& options) : options_(options) {
    for (MappedTensor& tensor : map_tensors(config, options.format)) {
      if (!tensor.written) continue;
      stored_.push_back({.name = tensor.name, .type = options.type, .shape = tensor.shape});
      mapped_.push_back(std::move(tensor));
    }
  }
  uint64_t bytes() const { return WeightsWriter::bytes(stored_, options_.shard_bytes); }
  size_t tensors() const { return stored_.size(); }
  size_t files() const { return WeightsWriter::files(stored_, options_.shard_bytes); }

  void run(const fs::path& step, const fs::path& folder) {
    WeightsWriter writer(folder, stored_, options_.shard_bytes);
    const uint64_t all = bytes();
    uint64_t written = 0;
    const auto write = [&](size_t i, const Tensor& values) {
      writer.write(i, values);
      written += static_cast<uint64_t>(values.numel()) * size_of(options_.type);
      if (options_.progress) options_.progress(written, all);
    };
    State state;
    std::map<std::string, std::vector<size_t>> uses;
    for (size_t i = 0; i < mapped_.size(); ++i) {
      const MappedTensor& tensor = mapped_[i];
      if (tensor.source.empty()) {
        write(i, Tensor::full(tensor.shape, DType::f32, 1));
        continue;
      }
      std::vector<size_t>& others = uses[tensor.source];
      others.push_back(i);
      if (others.size() > 1) continue;
      state.tensors.push_back({.name = "params/" + tensor.source,
                               .dtype = DType::f32,
                               .shape = tensor.shape,
                               .get = {},
                               .set = [&write, &others, this](const Tensor& values) {
                                 for (const size_t use : others) write(use, to_format(mapped_[use], values));
                               }});
    }
    load_one(step, state, {.prefix = "params/"});
    writer.finish();
  }

 private:
  const ExportOptions& options_;
  std::vector<MappedTensor> mapped_;
  std::vector<StoredTensor> stored_;
};

}  // namespace

Exported export_model(const fs::path& step, const ModelConfig& config, const fs::path& target,
                      const ExportOptions& options) {
  const std::vector<std::string> approximations = require_fit(config, options);
  WeightsExport weights(config, options);
  OutputFolder folder(target, options.replace, kExport, weights.bytes() + kBytesBesideWeights);
  weights.run(step, folder.path());
  folder.add("config.json", model_json(config, options.format, options.type, options.tokens));
  for (const auto& [name, text] : options.tokenizer_files) folder.add(name, text);
  if (options.format == ModelFormat::t6) {
    for (const RemoteCodeFile& file : remote_code_files()) folder.add(std::string(file.name), file.text);
  }
  if (!options.run.empty()) folder.add(kRunFile, options.run.dump(2) + "\n");
  folder.add("README.md", model_card(config, {.weights_files = weights.files(),
                                              .format = options.format,
                                              .type = options.type,
                                              .run = options.run,
                                              .tokenizer_hash = options.tokenizer_hash,
                                              .approximations = approximations}));
  Exported exported{.bytes = weights.bytes(), .tensors = weights.tensors(), .files = io::list_folder(folder.path())};
  folder.commit();
  return exported;
}

}  // namespace t6::checkpoint
