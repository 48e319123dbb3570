#include "model/attention_registry.h"

#include <variant>

namespace t6 {
namespace {

// One overload a kind, from the list of kinds.
struct Make {
  ParameterStore& store;
  const std::string& prefix;
  AttentionShape shape;
#define T6_ATTENTION_KIND(kind)                                         \
  std::unique_ptr<Attention> operator()(const kind::Options& o) const { \
    return kind::make(store, prefix, shape, o);                         \
  }
#include "model/attention_kinds.def"
#undef T6_ATTENTION_KIND
};

}  // namespace

std::unique_ptr<Attention> make_attention(ParameterStore& store, const std::string& prefix, const ModelConfig& config) {
  const AttentionShape shape{config.width, config.heads, config.head_width, config.init};
  return std::visit(Make{store, prefix, shape}, config.attention);
}

}  // namespace t6
