// What a model is: the keys of a config's section `model`.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/config.h"
#include "model/attention_kinds.h"
#include "nn/parameter.h"

namespace t6 {

// How the cos/sin tables of RoPE are rounded; the authors' code rounds them to bf16.
enum class RopeRounding { f32, bf16 };
constexpr std::array<std::string_view, 2> config_names(RopeRounding) {
  return {"f32", "bf16"};
}

// official: as the authors' code draws weights; paper: true Xavier bounds for the factor maps of TPA.
constexpr std::array<std::string_view, 2> config_names(InitKind) {
  return {"official", "paper"};
}

// The defaults are t6_tpa_small.
struct ModelConfig {
  AttentionOptions attention = tpa::Options{};
  int64_t layers = 12;         // L
  int64_t width = 768;         // C
  int64_t heads = 34;          // H
  int64_t head_width = 64;     // D; mla: the unrotated part
  int64_t ff_width = 0;        // F; 0: see feed_forward_width()
  int64_t vocab_size = 50304;  // V, padded
  int64_t context = 1024;      // T
  double rope_theta = 10000;
  RopeRounding rope_table = RopeRounding::f32;
  double norm_eps = 1.1920929e-07;
  InitKind init = InitKind::official;

  AttentionKind kind() const { return static_cast<AttentionKind>(attention.index()); }
  std::string_view kind_name() const { return kAttentionKindNames[attention.index()]; }
  // Whether the kind makes queries, keys or values of factors.
  bool has_factors() const {
    return std::visit(
        []<class O>(const O&) {
          return requires {
            O::kHasFactors;
          };
        },
        attention);
  }
  // F as it counts in parameters: floor(8/3 width) unless given.
  int64_t feed_forward_width() const { return ff_width ? ff_width : 8 * width / 3; }

  template <class V>
  void fields(V& v) {
    v.kind("attention", attention, kAttentionKindNames, "attention kind");
    v.field("layers", layers, "transformer blocks L", config::range(1, 1024));
    v.field("width", width, "width C of the residual stream", config::range(1, 65536));
    v.field("heads", heads, "query heads H", config::range(1, 4096));
    v.field("head_width", head_width, "width D of a head, even; mla: its unrotated part", config::range(2, 1024));
    v.field("ff_width", ff_width, "width F of the SwiGLU layer; 0: floor(8/3 width)", config::range(0, 1 << 20));
    v.field("vocab_size", vocab_size, "rows V of the embedding, at least the tokenizer's size",
            config::range(2, 1 << 24));
    v.field("context", context, "tokens T of a window", config::range(1, 1 << 20));
    v.field("rope_theta", rope_theta, "base of the rotary angles", config::range(1, 1e12));
    v.field("rope_table", rope_table, "rounding of the rotary cos/sin tables");
    v.field("norm_eps", norm_eps, "added to the mean square in rms_norm", config::positive(0.1));
    v.field("init", init, "bounds of the TPA factor weights: as the authors' code, or as the paper");
    v.kind_options("attention", attention, kAttentionKindNames);
  }
  // Rules across fields, under the names "model.<key>".
  void check(config::Checks& checks) const;
  bool operator==(const ModelConfig&) const = default;
};

// The section alone: "model:\n  attention: tpa\n ..." for checkpoints and exports, and back. Error(usage) names `name`.
std::string to_yaml(const ModelConfig& config);
ModelConfig model_config_from_yaml(std::string_view text, const std::string& name);

}  // namespace t6
