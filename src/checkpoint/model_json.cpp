#include "checkpoint/model_json.h"

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/strict_json.h"
#include "checkpoint/json_fields.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

constexpr int64_t kGpt2EndOfText = 50256;
constexpr const char* kBeginKey = "bos_token_id";
constexpr const char* kEndKey = "eos_token_id";
// What the authors' code takes for a key that their config.json does not have: the defaults of GPTConfig in
// model/T6.py, T6_kvonly.py and llama-{mha,gqa,mla}.py (the last for those of mla), and the base of class Rotary there.
// Their training hands over sizes and ranks but for those of mla.
constexpr double kOfficialTheta = 10000;
constexpr int64_t kOfficialContext = 1024;
constexpr int64_t kOfficialQRank = 512, kOfficialKvRank = 256, kOfficialRopeWidth = 32, kOfficialValueWidth = 64;

// What a config.json says, whatever the format calls it.
struct Draft {
  int64_t vocab_size = 0, layers = 0, width = 0, ff_width = 0, heads = 0, head_width = 0;
  int64_t context = kOfficialContext;
  int64_t kv_heads = 1, group_size = 1;        // mha, gqa, mqa
  int64_t rank_q = 1, rank_k = 1, rank_v = 1;  // tpa, tpa_kvonly (rank_q 0)
  int64_t q_rank = kOfficialQRank, kv_rank = kOfficialKvRank, rope_width = kOfficialRopeWidth;  // mla
  int64_t v_width = kOfficialValueWidth;                                                        // mla
  double theta = kOfficialTheta;
  double eps = std::numeric_limits<float>::epsilon();
  std::string kind;           // the word of a config; empty where the format says it otherwise
  std::string table;          // "f32", "bf16"
  std::string natural_table;  // what the format itself computes with
  json begin, end;            // ids of tokens, or null
  const char* dtype = "";

  bool is(AttentionKind other) const { return kind == kAttentionKindNames[static_cast<size_t>(other)]; }
};

// Ranges are those of a config.
void common_sizes(JsonFields& f, Draft& d) {
  f.integer("vocab_size", d.vocab_size, 2, 1 << 24);
  f.integer("hidden_size", d.width, 1, 65536);
  f.integer("intermediate_size", d.ff_width, 1, 1 << 20);
  f.integer("num_hidden_layers", d.layers, 1, 1024);
  f.integer("num_attention_heads", d.heads, 1, 4096);
  f.integer("max_position_embeddings", d.context, 1, 1 << 20);
  f.number("rms_norm_eps", d.eps, 0, 0.1);
}

// What every format of transformers has, and what does not change the model.
// `tied`: whether a model is tied where its config.json does not say; transformers leaves defaults out.
void transformers_keys(JsonFields& f, Draft& d, const char* architecture, const char* model_type,
                       JsonFields::Presence tied = JsonFields::kRequired) {
  f.is("architectures", json::array({architecture}), "another class computes something else", JsonFields::kDefault);
  f.is("model_type", model_type, "");
  f.is("tie_word_embeddings", true, "t6 has no head of its own: its weights are the embedding's", tied);
  f.note("torch_dtype", d.dtype);
  f.note(kBeginKey, d.begin);
  f.note(kEndKey, d.end);
  f.note("use_cache", true);
  for (const char* key :
       {"dtype", "initializer_range", "transformers_version", "pad_token_id", "_name_or_path", "attention_dropout",
        "pretraining_tp", "_attn_implementation_autoset", "return_dict", "output_hidden_states", "output_attentions"}) {
    f.harmless(key);
  }
  if (d.natural_table != d.table || f.reads()) f.word("t6_rope_table", d.table, {"f32", "bf16"}, JsonFields::kDefault);
}

void official_keys(JsonFields& f, Draft& d) {
  f.is("model_type", "gpt2", "");
  f.integer("vocab_size", d.vocab_size, 2, 1 << 24);
  f.integer("n_layer", d.layers, 1, 1024);
  f.integer("n_head", d.heads, 1, 4096);
  f.integer("head_dim", d.head_width, 2, 1024);
  f.integer("n_embd", d.width, 1, 65536);
  f.integer("block_size", d.context, 1, 1 << 20, JsonFields::kDefault);
  const bool factors = d.is(AttentionKind::tpa) || d.is(AttentionKind::tpa_kvonly);
  f.integer("rank", d.rank_k, 1, 1024, factors ? JsonFields::kRequired : JsonFields::kDefault);
  f.integer("q_rank", d.rank_q, 1, 1024, d.is(AttentionKind::tpa) ? JsonFields::kRequired : JsonFields::kDefault);
  f.is("bias", false, "t6 has no biases", JsonFields::kDefault);
  f.is("dropout", 0.0, "t6 has no dropout", JsonFields::kDefault);
  f.is("using_groupnorm", false, "t6 has no norm behind the heads", JsonFields::kDefault);
  f.note("scale_attn_by_inverse_layer_idx", true);  // the authors' models do not read it
  if (d.is(AttentionKind::mha) || d.is(AttentionKind::gqa) || d.is(AttentionKind::mqa)) {
    f.integer("group_size", d.group_size, 1, 4096, JsonFields::kDefault);
  } else {
    f.harmless("group_size");
  }
  if (d.is(AttentionKind::mla)) {
    f.integer("q_lora_rank", d.q_rank, 1, 65536, JsonFields::kDefault);
    f.integer("kv_lora_rank", d.kv_rank, 1, 65536, JsonFields::kDefault);
    f.integer("qk_rope_head_dim", d.rope_width, 2, 1024, JsonFields::kDefault);
    f.integer("v_head_dim", d.v_width, 2, 1024, JsonFields::kDefault);
  }
  for (const char* key : {"architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path",
                          "bos_token_id", "eos_token_id", "tie_word_embeddings", "use_cache"}) {
    f.harmless(key);
  }
  if (d.natural_table != d.table || f.reads()) f.word("t6_rope_table", d.table, {"f32", "bf16"}, JsonFields::kDefault);
}

void mistral_keys(JsonFields& f, Draft& d, bool llama) {
  transformers_keys(f, d, llama ? "LlamaForCausalLM" : "MistralForCausalLM", llama ? "llama" : "mistral");
  common_sizes(f, d);
  f.rope(d.theta, 1, 1e12);
  if (f.reads() && d.heads > 0) d.head_width = d.width / d.heads;
  f.integer("head_dim", d.head_width, 2, 1024, JsonFields::kDefault);
  if (f.reads()) d.kv_heads = d.heads;
  f.integer("num_key_value_heads", d.kv_heads, 1, 4096, llama ? JsonFields::kDefault : JsonFields::kRequired);
  f.is("hidden_act", "silu", "t6's gate is silu", JsonFields::kDefault);
  if (llama) {
    f.is("attention_bias", false, "t6 has no biases", JsonFields::kDefault);
    f.is("mlp_bias", false, "t6 has no biases", JsonFields::kDefault);
  } else {
    f.is("sliding_window", nullptr, "t6 attends to the whole context; where the key is missing, it means 4096");
  }
}

void deepseek_keys(JsonFields& f, Draft& d) {
  transformers_keys(f, d, "DeepseekV3ForCausalLM", "deepseek_v3");
  common_sizes(f, d);
  f.rope(d.theta, 1, 1e12);
  f.integer("qk_nope_head_dim", d.head_width, 2, 1024);
  f.integer("qk_rope_head_dim", d.rope_width, 2, 1024);
  f.integer("q_lora_rank", d.q_rank, 1, 65536);
  f.integer("kv_lora_rank", d.kv_rank, 1, 65536);
  f.is("v_head_dim", d.head_width, "t6's values are as wide as the unrotated part of its keys");
  f.is("num_key_value_heads", d.heads, "every head has keys and values of its own");
  f.is("first_k_dense_replace", d.layers, "t6 has no experts: every layer must be dense");
  f.is("num_nextn_predict_layers", 0, "t6 predicts one token", JsonFields::kDefault);
  f.is("rope_interleave", true, "t6 knows DeepSeek's order of the rotated rows alone", JsonFields::kDefault);
  f.is("attention_bias", false, "t6 has no biases", JsonFields::kDefault);
  f.is("hidden_act", "silu", "t6's gate is silu", JsonFields::kDefault);
  for (const char* key :
       {"head_dim", "qk_head_dim", "n_routed_experts", "n_shared_experts", "moe_intermediate_size",
        "num_experts_per_tok", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor", "scoring_func",
        "topk_method", "moe_layer_freq", "ep_size", "aux_loss_alpha", "seq_aux", "output_router_logits"}) {
    f.harmless(key);
  }
}

void t6_keys(JsonFields& f, Draft& d) {
  transformers_keys(f, d, "T6ForCausalLM", "t6", JsonFields::kDefault);
  f.note("auto_map", json({{"AutoConfig", "configuration_t6.T6Config"},
                           {"AutoModel", "modeling_t6.T6Model"},
                           {"AutoModelForCausalLM", "modeling_t6.T6ForCausalLM"}}));
  common_sizes(f, d);
  f.rope(d.theta, 1, 1e12);
  f.integer("head_dim", d.head_width, 2, 1024);
  f.word("attention_kind", d.kind, {"tpa", "tpa_kvonly"});
  f.integer("rank_q", d.rank_q, 0, 1024);
  f.integer("rank_k", d.rank_k, 1, 1024);
  f.integer("rank_v", d.rank_v, 1, 1024);
  f.word("rope_table", d.table, {"f32", "bf16"});
  f.problem_unless((d.rank_q == 0) == (d.kind == "tpa_kvonly"), "rank_q",
                   "expected 0 for tpa_kvonly, whose query has no factors, and at least 1 for tpa");
}

void keys_of(ModelFormat format, JsonFields& f, Draft& d) {
  switch (format) {
    case ModelFormat::official:
      return official_keys(f, d);
    case ModelFormat::mistral:
      return mistral_keys(f, d, false);
    case ModelFormat::llama:
      return mistral_keys(f, d, true);
    case ModelFormat::deepseek_v3:
      return deepseek_keys(f, d);
    case ModelFormat::t6:
      return t6_keys(f, d);
  }
}

std::string natural_table(ModelFormat format, const std::string& own) {
  return format == ModelFormat::official ? "bf16" : format == ModelFormat::t6 ? own : "f32";
}

int64_t official_ff_width(int64_t width) {
  return static_cast<int64_t>(std::floor(8.0 / 3 * static_cast<double>(width)));
}
bool is_float_epsilon(double eps) {
  return static_cast<float>(eps) == std::numeric_limits<float>::epsilon();
}

Draft draft_of(const ModelConfig& config) {
  Draft d;
  d.vocab_size = config.vocab_size;
  d.layers = config.layers;
  d.width = config.width;
  d.ff_width = config.feed_forward_width();
  d.heads = config.heads;
  d.head_width = d.v_width = config.head_width;
  d.context = config.context;
  d.theta = config.rope_theta;
  d.eps = is_float_epsilon(config.norm_eps) ? std::numeric_limits<float>::epsilon() : config.norm_eps;
  d.kind = config.kind_name();
  d.table = config_names(RopeRounding())[static_cast<size_t>(config.rope_table)];
  if (config.kind() == AttentionKind::mha) d.kv_heads = config.heads;
  if (const auto* o = std::get_if<gqa::Options>(&config.attention)) d.kv_heads = o->kv_heads;
  d.group_size = config.heads / d.kv_heads;
  if (const auto* o = std::get_if<tpa::Options>(&config.attention)) {
    d.rank_q = o->rank_q;
    d.rank_k = o->rank_k;
    d.rank_v = o->rank_v;
  }
  if (const auto* o = std::get_if<tpa_kvonly::Options>(&config.attention)) {
    d.rank_q = 0;
    d.rank_k = o->rank_k;
    d.rank_v = o->rank_v;
  }
  if (const auto* o = std::get_if<mla::Options>(&config.attention)) {
    d.q_rank = o->q_rank;
    d.kv_rank = o->kv_rank;
    d.rope_width = o->rope_width;
  }
  return d;
}

AttentionKind grouped_kind(const Draft& d) {
  if (d.kv_heads == d.heads) return AttentionKind::mha;
  return d.kv_heads == 1 ? AttentionKind::mqa : AttentionKind::gqa;
}

// Of a draft that was read without a problem.
AttentionKind kind_of(ModelFormat format, const Draft& d) {
  switch (format) {
    case ModelFormat::mistral:
    case ModelFormat::llama:
      return grouped_kind(d);
    case ModelFormat::deepseek_v3:
      return AttentionKind::mla;
    case ModelFormat::official:
      if (d.is(AttentionKind::mla)) return AttentionKind::mla;
      if (d.is(AttentionKind::mha)) return grouped_kind(d);  // the names that all three have
      break;
    case ModelFormat::t6:
      break;
  }
  return d.is(AttentionKind::tpa) ? AttentionKind::tpa : AttentionKind::tpa_kvonly;
}

ModelConfig config_of(const Draft& d, AttentionKind kind) {
  ModelConfig config;
  config.attention = default_options(kind);
  config.vocab_size = d.vocab_size;
  config.layers = d.layers;
  config.width = d.width;
  config.heads = d.heads;
  config.head_width = d.head_width;
  config.context = d.context;
  config.rope_theta = d.theta;
  config.rope_table = d.table == "bf16" ? RopeRounding::bf16 : RopeRounding::f32;
  if (!is_float_epsilon(d.eps)) config.norm_eps = d.eps;
  if (d.ff_width != config.feed_forward_width()) config.ff_width = d.ff_width;
  if (auto* o = std::get_if<gqa::Options>(&config.attention)) o->kv_heads = d.kv_heads;
  if (auto* o = std::get_if<tpa::Options>(&config.attention)) *o = {d.rank_q, d.rank_k, d.rank_v};
  if (auto* o = std::get_if<tpa_kvonly::Options>(&config.attention)) *o = {d.rank_k, d.rank_v};
  if (auto* o = std::get_if<mla::Options>(&config.attention)) *o = {d.q_rank, d.kv_rank, d.rope_width};
  return config;
}

ModelFormat format_of(const json& root, const std::string& where) {
  const auto type = root.find("model_type");
  const std::string word = type != root.end() && type->is_string() ? type->get<std::string>() : "";
  if (word == "mistral") return ModelFormat::mistral;
  if (word == "llama") return ModelFormat::llama;
  if (word == "deepseek_v3") return ModelFormat::deepseek_v3;
  if (word == "t6") return ModelFormat::t6;
  if (word == "gpt2" && root.contains("head_dim")) return ModelFormat::official;
  if (word == "gpt2") {
    fail(ExitCode::checkpoint,
         "{}: is OpenAI's GPT-2, with learned positions and biases; t6 has no such model. The authors' models, which "
         "carry that model_type too, have head_dim",
         where);
  }
  fail(ExitCode::checkpoint,
       "{}: expected a model_type of gpt2 (the authors' models), mistral, llama, deepseek_v3 and t6, got {}", where,
       type == root.end() ? "none" : shown(*type));
}

// An official config.json does not name its kind; the tensors do.
AttentionKind official_kind(const std::set<std::string>& names, const std::string& where) {
  const auto has = [&](const char* name) { return names.count(std::string("transformer.h.0.attn.") + name) > 0; };
  if (has("c_qkv.W_A_q.weight")) return AttentionKind::tpa;
  if (has("c_qkv.c_q.weight")) return AttentionKind::tpa_kvonly;
  if (has("q_a_proj.weight")) return AttentionKind::mla;
  if (has("c_q.weight")) return AttentionKind::mha;
  fail(ExitCode::checkpoint,
       "{}: the tensors beside it are of none of the kinds that t6 knows: transformer.h.0.attn. has neither "
       "c_qkv.W_A_q, c_qkv.c_q, q_a_proj nor c_q",
       where);
}

std::optional<int64_t> token_id(const json& value, int64_t vocab_size) {
  const bool fits = value.is_number_integer() && value >= 0 && value < vocab_size;
  return fits ? std::optional(value.get<int64_t>()) : std::nullopt;
}

}  // namespace

std::optional<DocumentTokens> document_tokens_of(const json& object, int64_t vocab_size) {
  if (!object.is_object() || (!object.contains(kBeginKey) && !object.contains(kEndKey))) return std::nullopt;
  const auto id = [&](const char* key) { return token_id(object.value(key, json()), vocab_size); };
  return DocumentTokens{id(kBeginKey), id(kEndKey)};
}

void add_document_tokens(const DocumentTokens& tokens, json& object) {
  object[kBeginKey] = tokens.begin ? json(*tokens.begin) : json();
  object[kEndKey] = tokens.end ? json(*tokens.end) : json();
}

Unfit unfit_for(const ModelConfig& config, ModelFormat format) {
  Unfit unfit;
  const auto refuse_unless = [&](bool holds, std::string reason) {
    if (!holds) unfit.reasons.push_back(std::move(reason));
  };
  if (format == ModelFormat::official) {
    refuse_unless(config.rope_theta == kOfficialTheta,
                  fmt::format("the authors' code has rope_theta 10000, this model {}", config.rope_theta));
    refuse_unless(is_float_epsilon(config.norm_eps),
                  fmt::format("the authors' code has norm_eps 1.1920929e-07, this model {}", config.norm_eps));
    refuse_unless(config.feed_forward_width() == official_ff_width(config.width),
                  fmt::format("the authors' code has ff_width floor(8/3 width) = {}, this model {}",
                              official_ff_width(config.width), config.feed_forward_width()));
    int64_t rank_k = 0, rank_v = 0;
    if (const auto* o = std::get_if<tpa::Options>(&config.attention)) rank_k = o->rank_k, rank_v = o->rank_v;
    if (const auto* o = std::get_if<tpa_kvonly::Options>(&config.attention)) rank_k = o->rank_k, rank_v = o->rank_v;
    refuse_unless(
        rank_k == rank_v,
        fmt::format("the authors' code has one rank for keys and values, this model {} and {}", rank_k, rank_v));
  }
  const std::string own(config_names(RopeRounding())[static_cast<size_t>(config.rope_table)]);
  const std::string natural = natural_table(format, own);
  if (own != natural) {
    unfit.approximations.push_back(fmt::format("{} has RoPE tables in {}, this model (model.rope_table) in {}",
                                               format == ModelFormat::official ? "the authors' code" : "transformers",
                                               natural, own));
  }
  return unfit;
}

std::string model_json(const ModelConfig& config, ModelFormat format, StoredType type,
                       const std::optional<DocumentTokens>& tokens) {
  Draft draft = draft_of(config);
  if (format == ModelFormat::official) {
    // Classes of other kinds have both keys, and do not read them.
    if (draft.rank_q == 0) draft.rank_q = 1;
  }
  draft.natural_table = natural_table(format, draft.table);
  draft.dtype = type == StoredType::bf16 ? "bfloat16" : "float32";
  if (tokens) {
    if (tokens->begin) draft.begin = *tokens->begin;
    if (tokens->end) draft.end = *tokens->end;
  } else if (config.vocab_size > kGpt2EndOfText) {
    draft.begin = draft.end = kGpt2EndOfText;
  }
  JsonWriter writer;
  keys_of(format, writer, draft);
  return writer.root.dump(2) + "\n";
}

ModelJson parse_model_json(std::string_view text, const std::string& where, const std::set<std::string>& names) {
  const json root = parse_strict_json(text, where, ExitCode::checkpoint);
  if (!root.is_object()) fail(ExitCode::checkpoint, "{}: expected an object", where);
  const ModelFormat format = format_of(root, where);
  Draft draft;
  if (format == ModelFormat::official) {
    draft.kind = kAttentionKindNames[static_cast<size_t>(official_kind(names, where))];
  }
  draft.table = natural_table(format, "f32");
  JsonReader reader(root);
  keys_of(format, reader, draft);
  if (format == ModelFormat::official) {
    const bool said = root.contains("v_head_dim") && !root["v_head_dim"].is_null();
    reader.problem_unless(
        !draft.is(AttentionKind::mla) || draft.v_width == draft.head_width, "v_head_dim",
        fmt::format("{}expected head_dim {}: t6's values are as wide as the unrotated part of its keys",
                    said ? "" : fmt::format("is missing; the authors' default is {}, ", kOfficialValueWidth),
                    draft.head_width));
    reader.problem_unless(draft.heads % draft.group_size == 0, "group_size",
                          fmt::format("expected a divisor of n_head {}, got {}", draft.heads, draft.group_size));
    draft.rank_v = draft.rank_k;
    draft.ff_width = official_ff_width(draft.width);
    draft.kv_heads = draft.heads / draft.group_size;
  }
  reader.finish(where);
  ModelConfig config = config_of(draft, kind_of(format, draft));
  try {
    // The rules that every config is held to.
    config = model_config_from_yaml(to_yaml(config), where);
  } catch (const Error& error) {
    fail(ExitCode::checkpoint, "{}: describes a model that t6 cannot be: {}", where, error.what());
  }
  return {format, config, document_tokens_of(root, config.vocab_size)};
}

}  // namespace t6::checkpoint
