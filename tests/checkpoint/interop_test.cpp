// Models whose files and logits come from a run with transformers itself: imports compute those logits, exports give
// those bytes. tests/data/interop/README.md says how they are made.
#include <gtest/gtest.h>

#include <algorithm>

#include "checkpoint/export_support.h"

namespace t6::checkpoint {
namespace {

class Interop : public ScratchTest {};

fs::path fixtures() {
  return fs::path(T6_SOURCE_DIR) / "tests/data/interop";
}

std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(fixtures())) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Tensor read_tensor(const SafetensorsReader& reader, const std::string& name) {
  for (const StoredTensor& tensor : reader.tensors()) {
    if (tensor.name == name) return reader.read(tensor);
  }
  throw std::runtime_error("no tensor " + name);
}

TEST_F(Interop, EveryKindAndFormatIsThere) {
  std::vector<std::string> expected{"mha_llama"};
  for (const std::string_view kind : kAttentionKindNames) {
    expected.emplace_back(kind);
    expected.push_back(std::string(kind) + "_official");
  }
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(fixture_names(), expected);
}

TEST_F(Interop, ImportsComputeWhatTheOthersCompute) {
  for (const std::string& name : fixture_names()) {
    const ImportedModel imported(fixtures() / name);
    const fs::path step = save_imported(folder_ / name, imported);
    Transformer model(imported.config());
    model.allocate(DType::f32);
    load_one(step, parameters_of(model.parameters()), {.prefix = "params/"});
    model.parameters().refresh_compute();

    const SafetensorsReader theirs(fixtures() / name / "logits.safetensors");
    const std::vector<double> ids = read_tensor(theirs, "ids").to_doubles();
    const std::vector<double> expected = read_tensor(theirs, "logits").to_doubles();
    const std::vector<int32_t> tokens(ids.begin(), ids.end());
    const std::vector<double> logits =
        model.logits(Tensor::from<int32_t>({1, static_cast<int64_t>(tokens.size())}, tokens)).to_doubles();
    ASSERT_EQ(logits.size(), expected.size()) << name;
    double largest = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      EXPECT_NEAR(logits[i], expected[i], 1e-5) << name << " logit " << i;
      largest = std::max(largest, std::abs(expected[i]));
    }
    EXPECT_GT(largest, 1) << name;
  }
}

TEST_F(Interop, ExportsAreTheBytesThatTheOthersLoaded) {
  for (const std::string& name : fixture_names()) {
    const ImportedModel imported(fixtures() / name);
    const fs::path step = save_imported(folder_ / name, imported);
    ExportOptions options;
    options.format = imported.format();
    options.tokens = imported.tokens();
    EXPECT_EQ(options.tokens.has_value(), options.format != ModelFormat::official) << name;
    export_model(step, imported.config(), folder_ / (name + "_out"), options);
    for (const char* file : {kWeightsFile, "config.json"}) {
      EXPECT_EQ(read_bytes(folder_ / (name + "_out") / file), read_bytes(fixtures() / name / file))
          << name << " " << file;
    }
  }
}

}  // namespace
}  // namespace t6::checkpoint
