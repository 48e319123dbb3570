// The decoder that all attention kinds share: embedding, L blocks of attention and SwiGLU, tied head.
//
//   x = wte[token];  x += attention(rms_norm(x));  x += mlp(rms_norm(x));  logits = rms_norm(x) wte^T
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/model_config.h"
#include "model/recompute.h"
#include "nn/attention/attention.h"
#include "nn/swiglu.h"

namespace t6 {

// What decoding keeps of the tokens so far: one cache a layer, equally long.
struct DecodeState {
  std::vector<LayerCache> layers;
  int64_t length() const { return layers.empty() ? 0 : layers.front().length(); }
  int64_t capacity() const { return layers.empty() ? 0 : layers.front().capacity(); }
  size_t bytes() const;
};

// Rows [begin, begin + count) of a matrix.
struct Rows {
  int64_t begin = 0, count = 0;
};

class Transformer {
 public:
  // Declares the parameters; allocates nothing, so that counts cost nothing.
  explicit Transformer(const ModelConfig& config);

  // Allocates parameters (see ParameterStore) and RoPE tables for compute in f32, bf16 or f64; initialise() or a
  // checkpoint fills them.
  void allocate(DType compute, Device device = kCpu, int64_t multiple = 1, std::vector<Span> masters = {});
  void allocate_for_inference(DType compute, Device device = kCpu);

  const ModelConfig& config() const { return config_; }
  ParameterStore& parameters() { return store_; }
  const ParameterStore& parameters() const { return store_; }
  const Attention& attention() const { return *blocks_.front().attention; }  // every layer's is alike

  // scale * mean cross-entropy of targets given tokens, both i32 [B, T]; the root of backward(), whose gradient with
  // respect to wte's use in the head is added at once (see ops/classifier.h). row_losses: when given, receives the
  // unscaled loss of every position, [B * T].
  Variable loss(const Tensor& tokens, const Tensor& targets, double scale, Recompute recompute = Recompute::none,
                Tensor* row_losses = nullptr) const;

  // Logits [B, T, V] in f32 (f64) without a tape.
  Tensor logits(const Tensor& tokens) const;

  // The normed output of the last block at some rows of the flattened [B * T] positions, [count of all, C] in compute
  // precision, without a tape; and the logits [n, V] in f32 (f64) of such rows. Together they are logits() at these
  // rows.
  Tensor hidden_at(const Tensor& tokens, std::span<const Rows> rows) const;
  Tensor head(const Tensor& hidden) const;

  // Error(data) unless every id (i32 in host memory) is one of the vocabulary. What is given in host memory to the
  // functions here is checked by them; what lies on a GPU already was checked by whoever brought it there.
  void check_ids(const Tensor& ids) const;

  // An empty cache for `batch` sequences of up to `capacity` tokens.
  DecodeState new_decode_state(int64_t batch, int64_t capacity) const;

  // Appends tokens i32 [B, n] to the state; logits [B, V] after the last of them. Error(internal) beyond the capacity.
  Tensor decode(const Tensor& tokens, DecodeState& state) const;

 private:
  void make_rope(DType compute, Device device);
  struct Block {
    std::unique_ptr<Attention> attention;
    std::unique_ptr<SwiGluMlp> mlp;
  };

  // Ids where the parameters are.
  Tensor on_device(const Tensor& ids) const;
  // wte[token] as the start of the residual stream, [B * T, C] in f32 (f64).
  Variable embed(const Tensor& tokens) const;
  // rms_norm of the last block's output, [B * T, C] in compute precision.
  Variable hidden(const Tensor& tokens, Recompute recompute) const;

  ModelConfig config_;
  ParameterStore store_;
  const Parameter* wte_;
  std::vector<Block> blocks_;
  RopeTable rope_;
};

}  // namespace t6
