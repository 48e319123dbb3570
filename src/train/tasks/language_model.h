// What scoring asks of a model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/transformer.h"
#include "train/tasks/requests.h"

namespace t6::train {

struct Likelihood {
  double log_probability = 0;  // of all targets together, nats
  bool likeliest = true;       // each is the model's first choice
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual int64_t window() const = 0;
  virtual Device device() const { return kCpu; }
  // What lengths of sequences are padded to a multiple of.
  virtual int64_t multiple() const { return 1; }
  // [sequence][target list]. `likeliest` is only found out when asked for.
  virtual std::vector<std::vector<Likelihood>> score(std::span<const Sequence* const> batch, bool likeliest) const = 0;
};

// Sequences are padded at their right, where no position that counts looks. Log probabilities are over all columns of
// the vocabulary, padded ids among them, each in f32, and summed in f64. Logits exist for a part of the rows that count
// at a time.
class ScoredTransformer final : public LanguageModel {
 public:
  explicit ScoredTransformer(const Transformer& model) : model_(model) {}  // which outlives it
  int64_t window() const override { return model_.config().context; }
  Device device() const override { return model_.parameters().master().device(); }
  int64_t multiple() const override;
  std::vector<std::vector<Likelihood>> score(std::span<const Sequence* const> batch, bool likeliest) const override;

 private:
  const Transformer& model_;
};

}  // namespace t6::train
