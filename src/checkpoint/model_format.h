// How a t6 model is said in the formats of others: which tensor is which, and what is done with its rows. One list for
// each format, read in both directions: an export writes by it, an import reads by it.
//
// docs/export.md says why each transform is what it is.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "model/model_config.h"
#include "tensor/tensor.h"

namespace t6::checkpoint {

// official: the authors' repository. The others are what AutoModelForCausalLM of transformers loads: classes of its
// own, and remote code for the tensor product kinds.
enum class ModelFormat { official, mistral, llama, deepseek_v3, t6 };
constexpr std::array<std::string_view, 5> kModelFormatNames{"official", "mistral", "llama", "deepseek_v3", "t6"};
constexpr std::string_view name_of(ModelFormat format) {
  return kModelFormatNames[static_cast<size_t>(format)];
}

// What `t6 export --format hf` makes of a kind; `llama`: of mha, instead of Mistral. Error(usage).
ModelFormat hf_format(const ModelConfig& config, bool llama);

// Which row of t6's matrix a row of the other one is, and whether it is its negative. Rows come in blocks (a head,
// say), of which the last `rope` are turned by RoPE; t6 turns pairs (d, d + rope/2) by minus the angle.
struct RowOrder {
  enum class Rule {
    same,
    negate,     // pairs (d, d + rope/2), by plus the angle: the second half is negated
    interleave  // pairs (2 j, 2 j + 1), by plus the angle: so negated, then interleaved
  };
  Rule rule = Rule::same;
  int64_t block = 1, rope = 0;

  struct Row {
    int64_t index;
    bool negated;
  };
  Row source(int64_t row) const;
};

struct MappedTensor {
  std::string name;    // in the other format
  std::string source;  // t6's parameter; empty: ones, of a norm that t6 has without weights
  Shape shape;         // in both
  RowOrder rows = {};
  // The tied head: the numbers of a tensor before it once more. When read one of the two may be missing, and both must
  // be equal when there.
  bool copy = false;
  bool written = true;  // by an export
};

// Every tensor of `config` in `format`, in the order it is written. Sizes of `config` are checked before.
std::vector<MappedTensor> map_tensors(const ModelConfig& config, ModelFormat format);

// A tensor in f32 in t6's order of rows as the other's, and back.
Tensor to_format(const MappedTensor& mapped, const Tensor& values);
Tensor from_format(const MappedTensor& mapped, const Tensor& values);

}  // namespace t6::checkpoint
