#include "checkpoint/model_format.h"

#include <cstring>
#include <map>

#include "base/error.h"
#include "model/transformer.h"

namespace t6::checkpoint {
namespace {

constexpr std::string_view kWte = "transformer.wte.weight";

MappedTensor tied_head(const ModelConfig& config, bool written) {
  return {.name = "lm_head.weight",
          .source = std::string(kWte),
          .shape = {config.vocab_size, config.width},
          .copy = true,
          .written = written};
}

// The names of the authors are t6's own; they have the head beside the embedding.
std::vector<MappedTensor> map_own_names(const ModelConfig& config) {
  std::vector<MappedTensor> tensors;
  const Transformer model(config);
  model.parameters().for_each_view([&](const Parameter&, const ParameterView& view) {
    tensors.push_back({view.name, view.name, view.shape});
  });
  tensors.push_back(tied_head(config, true));
  return tensors;
}

// Tensors of one layer under the names of transformers: t6's name behind "transformer.h.N.", theirs behind
// "model.layers.N.", how rows are ordered.
struct Renamed {
  std::string own, other;
  RowOrder rows = {};
};

std::vector<Renamed> attention_names(const ModelConfig& config, ModelFormat format) {
  const int64_t width = config.head_width;
  if (format == ModelFormat::deepseek_v3) {
    const auto& o = std::get<mla::Options>(config.attention);
    const RowOrder head{RowOrder::Rule::interleave, width + o.rope_width, o.rope_width};
    const RowOrder shared{RowOrder::Rule::interleave, o.kv_rank + o.rope_width, o.rope_width};
    return {{"attn.q_a_proj.weight", "self_attn.q_a_proj.weight"},
            {"attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", shared},
            {"attn.q_a_layernorm.weight", "self_attn.q_a_layernorm.weight"},
            {"attn.q_b_proj.weight", "self_attn.q_b_proj.weight", head},
            {"attn.kv_a_layernorm.weight", "self_attn.kv_a_layernorm.weight"},
            {"attn.kv_b_proj.weight", "self_attn.kv_b_proj.weight"},
            {"attn.c_proj.weight", "self_attn.o_proj.weight"}};
  }
  const RowOrder head{RowOrder::Rule::negate, width, width};
  return {{"attn.c_q.weight", "self_attn.q_proj.weight", head},
          {"attn.c_k.weight", "self_attn.k_proj.weight", head},
          {"attn.c_v.weight", "self_attn.v_proj.weight"},
          {"attn.c_proj.weight", "self_attn.o_proj.weight"}};
}

std::vector<MappedTensor> map_transformers_names(const ModelConfig& config, ModelFormat format) {
  std::map<std::string, Shape> shapes;
  const Transformer model(config);
  model.parameters().for_each_view(
      [&](const Parameter&, const ParameterView& view) { shapes.emplace(view.name, view.shape); });
  const MappedTensor norm{.name = "", .source = "", .shape = {config.width}};
  std::vector<MappedTensor> tensors;
  tensors.push_back({"model.embed_tokens.weight", std::string(kWte), shapes.at(std::string(kWte))});
  std::vector<Renamed> names = attention_names(config, format);
  names.push_back({"mlp.c_fc1.weight", "mlp.gate_proj.weight"});
  names.push_back({"mlp.c_fc2.weight", "mlp.up_proj.weight"});
  names.push_back({"mlp.c_proj.weight", "mlp.down_proj.weight"});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string own = fmt::format("transformer.h.{}.", layer), other = fmt::format("model.layers.{}.", layer);
    for (const char* name : {"input_layernorm.weight", "post_attention_layernorm.weight"}) {
      tensors.push_back(norm);
      tensors.back().name = other + name;
    }
    for (const Renamed& one : names) {
      tensors.push_back({other + one.other, own + one.own, shapes.at(own + one.own), one.rows});
    }
  }
  tensors.push_back(norm);
  tensors.back().name = "model.norm.weight";
  tensors.push_back(tied_head(config, false));
  return tensors;
}

// Rows of `from` into `to`, each from where `order` says, or to there when `back`.
void copy_rows(const RowOrder& order, const Tensor& from, const Tensor& to, bool back) {
  const int64_t rows = from.dim(0), width = from.numel() / rows;
  for (int64_t row = 0; row < rows; ++row) {
    const RowOrder::Row other = order.source(row);
    const float* source = from.data<float>() + (back ? row : other.index) * width;
    float* destination = to.data<float>() + (back ? other.index : row) * width;
    if (!other.negated) {
      std::memcpy(destination, source, static_cast<size_t>(width) * sizeof(float));
      continue;
    }
    for (int64_t i = 0; i < width; ++i) destination[i] = -source[i];
  }
}

Tensor reordered(const MappedTensor& mapped, const Tensor& values, bool back) {
  if (mapped.rows.rule == RowOrder::Rule::same) return values;
  const Tensor out = Tensor::empty(values.shape(), DType::f32);
  copy_rows(mapped.rows, values, out, back);
  return out;
}

}  // namespace

ModelFormat hf_format(const ModelConfig& config, bool llama) {
  const AttentionKind kind = config.kind();
  if (llama) {
    if (kind != AttentionKind::mha) {
      fail(ExitCode::usage, "--llama is for mha alone, this model is {}; without it {}", config.kind_name(),
           kind == AttentionKind::mqa || kind == AttentionKind::gqa
               ? "it becomes a MistralForCausalLM, which computes the same"
               : "the format follows from the kind");
    }
    if (config.width % config.heads != 0) {
      fail(ExitCode::usage,
           "LlamaConfig asks for a width that is a multiple of the heads, got {} and {}; without --llama it becomes a "
           "MistralForCausalLM, which computes the same",
           config.width, config.heads);
    }
    return ModelFormat::llama;
  }
  if (kind == AttentionKind::tpa || kind == AttentionKind::tpa_kvonly) return ModelFormat::t6;
  return kind == AttentionKind::mla ? ModelFormat::deepseek_v3 : ModelFormat::mistral;
}

RowOrder::Row RowOrder::source(int64_t row) const {
  const int64_t begin = row - row % block, in_rope = row % block - (block - rope);
  if (rule == Rule::same || in_rope < 0) return {row, false};
  const int64_t half = rope / 2, rope_begin = begin + block - rope;
  if (rule == Rule::negate) return {row, in_rope >= half};
  return {rope_begin + in_rope / 2 + (in_rope % 2) * half, in_rope % 2 == 1};
}

std::vector<MappedTensor> map_tensors(const ModelConfig& config, ModelFormat format) {
  const bool own = format == ModelFormat::official || format == ModelFormat::t6;
  return own ? map_own_names(config) : map_transformers_names(config, format);
}

Tensor to_format(const MappedTensor& mapped, const Tensor& values) {
  return reordered(mapped, values, false);
}
Tensor from_format(const MappedTensor& mapped, const Tensor& values) {
  return reordered(mapped, values, true);
}

}  // namespace t6::checkpoint
