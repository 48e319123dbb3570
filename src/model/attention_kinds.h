// The attention kinds as an enum, their words, and a variant of their options, all from attention_kinds.def.
#pragma once

#include <array>
#include <string_view>
#include <variant>

#include "model/attention_kinds.def"

namespace t6 {

enum class AttentionKind : int {
#define T6_ATTENTION_KIND(kind) kind,
#include "model/attention_kinds.def"
#undef T6_ATTENTION_KIND
};

// In enumerator order, which is the order of the variant's alternatives.
inline constexpr std::array kAttentionKinds{
#define T6_ATTENTION_KIND(kind) AttentionKind::kind,
#include "model/attention_kinds.def"
#undef T6_ATTENTION_KIND
};
inline constexpr std::array kAttentionKindNames{
#define T6_ATTENTION_KIND(kind) std::string_view(#kind),
#include "model/attention_kinds.def"
#undef T6_ATTENTION_KIND
};
constexpr auto config_names(AttentionKind) {
  return kAttentionKindNames;
}

namespace detail {
template <class First, class... Options>
struct OptionsVariant {
  using type = std::variant<Options...>;
};
}  // namespace detail

// The leading void stands before the first comma of the list.
using AttentionOptions = detail::OptionsVariant<void
#define T6_ATTENTION_KIND(kind) , kind::Options
#include "model/attention_kinds.def"
#undef T6_ATTENTION_KIND
                                                >::type;

// Default options of a kind.
AttentionOptions default_options(AttentionKind kind);

}  // namespace t6
