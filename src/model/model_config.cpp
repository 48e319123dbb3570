#include "model/model_config.h"

#include <utility>

namespace t6 {
namespace {

struct ModelOnly {
  ModelConfig model;
  template <class V>
  void fields(V& v) {
    v.section("model", model, "the model");
  }
};

}  // namespace

AttentionOptions default_options(AttentionKind kind) {
  AttentionOptions options;
  const auto try_one = [&]<size_t I>(std::integral_constant<size_t, I>) {
    if (static_cast<size_t>(kind) == I) options.emplace<I>();
  };
  [&]<size_t... I>(std::index_sequence<I...>) {
    (try_one(std::integral_constant<size_t, I>{}), ...);
  }
  (std::make_index_sequence<std::variant_size_v<AttentionOptions>>{});
  return options;
}

void ModelConfig::check(config::Checks& checks) const {
  if (const auto* options = std::get_if<gqa::Options>(&attention)) {
    checks.require(heads % options->kv_heads == 0, {"model.gqa.kv_heads", "model.heads", "model.attention"},
                   "expected a number of key/value heads that divides model.heads, got kv_heads {} and heads {}",
                   options->kv_heads, heads);
  }
  if (const auto* options = std::get_if<mla::Options>(&attention)) {
    checks.require(options->rope_width % 2 == 0, {"model.mla.rope_width"}, "expected an even width for RoPE, got {}",
                   options->rope_width);
  } else {
    checks.require(head_width % 2 == 0, {"model.head_width"}, "expected an even width for RoPE, got {}", head_width);
  }
}

std::string to_yaml(const ModelConfig& config) {
  return config::to_yaml(ModelOnly{config});
}

ModelConfig model_config_from_yaml(std::string_view text, const std::string& name) {
  config::Tree tree;
  tree.add_text(text, name);
  ModelOnly out;
  config::Checks checks = config::read(tree, out);
  out.model.check(checks);
  tree.fail_on_problems();
  return out.model;
}

}  // namespace t6
