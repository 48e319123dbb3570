// What t6 import reads: safetensors files, their index, config.json. Refused with exit code 4, or taken for what they
// say.
#include "checkpoint/model_card.h"
#include "checkpoint/model_json.h"
#include "checkpoint/weights_folder.h"
#include "fuzz/fuzz_target.h"

namespace t6::fuzz {
namespace {

std::string prefixed(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes + header + data;
}

// 'h' HEADER 0x1e DATA: with the length that belongs to it. Else a whole file.
void run_safetensors(std::string_view input) {
  static MemoryFile file;
  std::string bytes(input);
  if (input.starts_with('h')) {
    const auto pieces = pieces_of(input.substr(1), 2);
    bytes = prefixed(std::string(pieces[0]), std::string(pieces[1]));
  }
  const std::filesystem::path& path = file.hold(bytes);
  accepts({ExitCode::checkpoint}, [&] {
    const checkpoint::SafetensorsReader reader(path);
    uint64_t end = 0, data = 0;
    for (const checkpoint::StoredTensor& tensor : reader.tensors()) {
      require(tensor.begin == end && tensor.end > tensor.begin, "{} lies at [{}, {}) after {}", tensor.name,
              tensor.begin, tensor.end, end);
      end = tensor.end;
      data += static_cast<uint64_t>(tensor.shape.numel()) * size_of(tensor.type);
    }
    require(data == end && end < bytes.size(), "{} bytes of tensors in a file of {}", data, bytes.size());
    for (const checkpoint::StoredTensor& tensor : reader.tensors()) {
      require(reader.read(tensor).numel() == tensor.shape.numel(), "{}", tensor.name);
    }
  });
}

void run_index(std::string_view input) {
  accepts({ExitCode::checkpoint}, [&] {
    for (const auto& [tensor, file] : checkpoint::parse_weights_index(input, "model.safetensors.index.json")) {
      const std::filesystem::path path(file);
      require(path.filename() == path && file.front() != '.' && file.ends_with(".safetensors"), "the file '{}'", file);
    }
  });
}

const char* const kKindTensors[] = {"transformer.h.0.attn.c_qkv.W_A_q.weight", "transformer.h.0.attn.c_qkv.c_q.weight",
                                    "transformer.h.0.attn.q_a_proj.weight", "transformer.h.0.attn.c_q.weight"};

// DIGIT CONFIG: which kind the tensors beside it are of.
void run_config(std::string_view input) {
  const size_t kind = input.empty() ? 0 : static_cast<uint8_t>(input.front()) % 4;
  const std::string_view text = input.empty() ? input : input.substr(1);
  accepts({ExitCode::checkpoint}, [&] { (void)checkpoint::parse_run_json(text, "run.json"); });
  accepts({ExitCode::checkpoint}, [&] {
    const std::set<std::string> names{kKindTensors[kind]};
    const checkpoint::ModelJson read = checkpoint::parse_model_json(text, "config.json", names);
    if (!checkpoint::unfit_for(read.config, read.format).reasons.empty()) return;
    // What is taken is written as the same model.
    const std::string again =
        checkpoint::model_json(read.config, read.format, checkpoint::StoredType::f32, read.tokens);
    const checkpoint::ModelJson second = checkpoint::parse_model_json(again, "printed", names);
    require(to_yaml(second.config) == to_yaml(read.config) && second.format == read.format, "reads back as another: {}",
            again);
  });
}

std::vector<std::string> safetensors_seeds() {
  const std::string one = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string two =
      R"({"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[4,12]},"b":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})";
  return {prefixed(one, std::string(8, 'x')),
          "h" + one + kCut + std::string(8, 'x'),
          "h" + two + kCut + std::string(12, 'x'),
          "h" + two + kCut + std::string(13, 'x'),
          "h{}" + std::string(1, kCut),
          "h[[[[[[[[",
          std::string(8, '\xff'),
          ""};
}

std::vector<std::string> index_seeds() {
  return {
      R"({"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})",
      R"({"weight_map":{"a":"../x.safetensors"}})", R"({"weight_map":{"a":1,"a":2}})", "{}"};
}

std::vector<std::string> config_seeds() {
  std::vector<std::string> seeds{"3{}", R"(3{"steps":7,"config":{"optimizer.lr":"0.0006"}})",
                                 R"(1{"model_type":"gpt2"})"};
  for (const AttentionKind kind : kAttentionKinds) {
    ModelConfig config;
    config.attention = default_options(kind);
    const char tensors = kind == AttentionKind::tpa          ? '0'
                         : kind == AttentionKind::tpa_kvonly ? '1'
                         : kind == AttentionKind::mla        ? '2'
                                                             : '3';
    for (const auto format : {checkpoint::ModelFormat::official, checkpoint::hf_format(config, false)}) {
      seeds.push_back(tensors + checkpoint::model_json(config, format, checkpoint::StoredType::bf16, {{5, 5}}));
    }
  }
  return seeds;
}

Registered safetensors_target({"safetensors", "safetensors files", &run_safetensors, &safetensors_seeds, 2048});
Registered index_target({"safetensors_index", "indices of sharded weights", &run_index, &index_seeds, 1024});
Registered config_target({"model_config_json", "config.json and run.json of other programs", &run_config, &config_seeds,
                          2048});

}  // namespace
}  // namespace t6::fuzz
