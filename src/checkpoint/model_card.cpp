#include "checkpoint/model_card.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/format.h"
#include "base/strict_json.h"
#include "model/counts.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

constexpr size_t kMaxWord = 200;

// Printable and with nothing that Markdown or HTML reads as more than a letter.
bool is_word(const std::string& text) {
  return text.size() <= kMaxWord && std::all_of(text.begin(), text.end(), [](char c) {
           return c >= ' ' && c <= '~' && std::string_view("|`<>\\*[]\"").find(c) == std::string_view::npos;
         });
}

void check_value(const json& value, const std::string& name, bool nested, const std::string& where) {
  if (!is_word(name)) fail(ExitCode::checkpoint, "{}: a name is no plain word", where);
  if (value.is_object() && !nested) {
    for (const auto& [key, inner] : value.items()) check_value(inner, key, true, where);
  } else if (!value.is_number() && !(value.is_string() && is_word(value.get_ref<const std::string&>()))) {
    fail(ExitCode::checkpoint, "{}: {}: expected a number or a plain word of at most {} characters", where, name,
         kMaxWord);
  }
}

std::string text_of(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  // Of one type where it was counted, of the other where it was read.
  if (value.is_number_integer() && value >= 0) return format_grouped(value.get<uint64_t>());
  return value.dump();
}

using Rows = std::vector<std::pair<std::string, std::string>>;

std::string table(const Rows& rows) {
  std::string text = "| | |\n|---|---|\n";
  for (const auto& [name, value] : rows) text += fmt::format("| {} | {} |\n", name, value);
  return text;
}

Rows model_rows(const ModelConfig& config, StoredType type) {
  const Transformer model(config);
  const ModelCounts counts = count(model);
  const auto number = [](int64_t value) { return format_grouped(static_cast<uint64_t>(value)); };
  Rows rows{{"attention", std::string(config.kind_name())},
            {"parameters", number(counts.parameters)},
            {"layers", number(config.layers)},
            {"width", number(config.width)},
            {"heads", fmt::format("{} of width {}", config.heads, config.head_width)},
            {"feed-forward width", number(config.feed_forward_width())},
            {"vocabulary", fmt::format("{} rows", number(config.vocab_size))},
            {"context", fmt::format("{} tokens", number(config.context))}};
  if (const auto* o = std::get_if<gqa::Options>(&config.attention)) {
    rows.emplace_back("key/value heads", number(o->kv_heads));
  }
  if (const auto* o = std::get_if<mla::Options>(&config.attention)) {
    rows.emplace_back("codes", fmt::format("query {}, key/value {}, rotated {}", o->q_rank, o->kv_rank, o->rope_width));
  }
  if (const auto* o = std::get_if<tpa::Options>(&config.attention)) {
    rows.emplace_back("ranks", fmt::format("query {}, key {}, value {}", o->rank_q, o->rank_k, o->rank_v));
  }
  if (const auto* o = std::get_if<tpa_kvonly::Options>(&config.attention)) {
    rows.emplace_back("ranks", fmt::format("key {}, value {}", o->rank_k, o->rank_v));
  }
  rows.emplace_back("decode cache", fmt::format("{} numbers a token over all layers", number(counts.cache_numbers)));
  rows.emplace_back("stored as", type == StoredType::bf16 ? "bfloat16" : "float32");
  return rows;
}

Rows run_rows(const json& run) {
  Rows rows;
  for (const auto& [name, value] : run.items()) {
    if (!value.is_object()) {
      rows.emplace_back(name, text_of(value));
      continue;
    }
    for (const auto& [key, inner] : value.items()) rows.emplace_back(fmt::format("{}: {}", name, key), text_of(inner));
  }
  return rows;
}

// The authors' file with the model of `config`, as it is called below model/ of their repository. Their file for mha
// takes the width of a head from the model's; that for groups computes the same with groups of one.
std::string_view authors_module(const ModelConfig& config) {
  switch (config.kind()) {
    case AttentionKind::mha:
      return config.heads * config.head_width == config.width ? "llama-mha" : "llama-gqa";
    case AttentionKind::mqa:
    case AttentionKind::gqa:
      return "llama-gqa";
    case AttentionKind::mla:
      return "llama-mla";
    case AttentionKind::tpa:
      return "T6";
    case AttentionKind::tpa_kvonly:
      break;
  }
  return "T6_kvonly";
}

std::string how_to_load(const ModelConfig& config, const CardFacts& facts) {
  if (facts.format == ModelFormat::official) {
    std::string load = "weights = load_file(\"model.safetensors\")\n";
    if (facts.weights_files > 1) {
      load = fmt::format(
          "weights = {{}}\n"
          "for i in range(1, {0} + 1):\n"
          "    weights.update(load_file(f\"model-{{i:05}}-of-{0:05}.safetensors\"))\n",
          facts.weights_files);
    }
    return "The names of the tensors and the keys of `config.json` are those of the authors' code\n"
           "(https://github.com/tensorgi/TPA):\n\n"
           "```python\n"
           "import importlib, json, sys\n"
           "from safetensors.torch import load_file\n\n"
           "sys.path.append(\"TPA\")  # where it was cloned to\n" +
           fmt::format("module = importlib.import_module(\"model.{}\")\n", authors_module(config)) +
           "model = module.GPT(module.GPTConfig(**json.load(open(\"config.json\"))))\n" + load +
           "model.load_state_dict(weights)  # strict: every name must be there\n```\n";
  }
  const bool remote = facts.format == ModelFormat::t6;
  const bool tokenizer = !facts.tokenizer_hash.empty();
  std::string text =
      fmt::format("```python\nfrom transformers import AutoModelForCausalLM{}\n\n", tokenizer ? ", AutoTokenizer" : "");
  const char* trust = remote ? ", trust_remote_code=True" : "";
  text += fmt::format("model = AutoModelForCausalLM.from_pretrained(\".\"{})\n", trust);
  if (tokenizer) {
    text += fmt::format("tokenizer = AutoTokenizer.from_pretrained(\".\"{})\n", trust);
  }
  text += "```\n";
  if (remote) {
    text += "\n`configuration_t6.py` and `modeling_t6.py` are this model's code; `trust_remote_code=True` runs them.\n";
  }
  return text;
}

}  // namespace

json parse_run_json(std::string_view text, const std::string& where) {
  const json run = parse_strict_json(text, where, ExitCode::checkpoint,
                                     {.depth = 3, .values = 200, .token_bytes = 1024, .bytes = size_t{64} << 10});
  if (!run.is_object()) fail(ExitCode::checkpoint, "{}: expected an object", where);
  for (const auto& [name, value] : run.items()) check_value(value, name, false, where);
  return run;
}

std::string model_card(const ModelConfig& config, const CardFacts& facts) {
  std::string text = "---\npipeline_tag: text-generation\n";
  if (facts.format != ModelFormat::official) text += "library_name: transformers\n";
  text += fmt::format("tags: [t6, {}]\n---\n", config.kind_name());
  text += fmt::format("# A language model with {} attention\n\n", config.kind_name());
  text += fmt::format(
      "A decoder {}exported by t6 in the format `{}`. t6 trains the decoders of the paper "
      "[Tensor Product Attention Is All You Need](https://arxiv.org/abs/2501.06425); it is not its authors' "
      "program.\n\n",
      facts.run.empty() ? "" : "trained and ", name_of(facts.format));
  text += table(model_rows(config, facts.type));
  for (const std::string& difference : facts.approximations) {
    text += fmt::format("\n**Approximate**: {}; logits differ by that rounding.\n", difference);
  }
  text += "\n## Load it\n\n" + how_to_load(config, facts);
  text += "\nBack into t6: `t6 import . --out runs/imported`.\n";
  text += "\n## Tokenizer\n\n";
  text += facts.tokenizer_hash.empty()
              ? "Exported without tokenizer files. Token ids are those of the data it was trained on.\n"
              : fmt::format("Byte-level BPE; hash of its tokens `{}`. A document begins with the end-of-text token.\n",
                            facts.tokenizer_hash);
  text += "\n## Training\n\n";
  text += facts.run.empty() ? "Nothing is known about it: the weights were imported from files that do not say.\n"
                            : table(run_rows(facts.run));
  text += "\n## License\n\nTo be chosen by who publishes this model; none is given here.\n";
  return text;
}

}  // namespace t6::checkpoint
