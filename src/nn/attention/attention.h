// Attention: the one interface of every kind, what the trunk gives it, and the decode cache it declares.
//
// Adding a kind: one file with an Options struct, a class and make(); one word in model/attention_kinds.def; one
// config. The shared tests iterate the list of kinds.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "autograd/variable.h"
#include "nn/parameter.h"
#include "ops/rope.h"

namespace t6 {

// What every kind is built from; its own options come beside it.
struct AttentionShape {
  int64_t width = 0;       // C
  int64_t heads = 0;       // H
  int64_t head_width = 0;  // D
  InitKind init = InitKind::official;
};

// Where a call stands: `n` has batch * tokens rows, token t of a window at position `position + t`.
struct AttentionContext {
  int64_t batch = 1;
  int64_t tokens = 1;
  int64_t position = 0;
  const RopeTable* rope = nullptr;  // of the kind's rope_width(), at least position + tokens rows
  bool rebuild_qkv = false;         // keep what q, k and v are made of and make them again in backward, where
                                    // rebuilt_numbers() are any
};

// [batch * tokens, W] as [batch, tokens, W].
Variable split_tokens(const Variable& rows, const AttentionContext& context);

// One named part of what decoding keeps of a token, in one layer.
struct CacheSlot {
  std::string name;
  Shape shape;  // numbers per token: {G, D}, {H, R}, {288}
};
using CacheLayout = std::vector<CacheSlot>;

// Numbers kept per token and layer; bytes follow from the dtype.
int64_t numbers_per_token(const CacheLayout& layout);

// The cache of one layer: a tensor [batch, capacity, slot shape...] per slot, filled up to length().
class LayerCache {
 public:
  LayerCache(const CacheLayout& layout, int64_t batch, int64_t capacity, DType dtype, Device device = kCpu);

  const Tensor& slot(size_t i) const { return slots_[i]; }
  size_t slots() const { return slots_.size(); }
  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  size_t bytes() const;

  // Copies `values` [batch, tokens, slot shape...] behind what slot i holds; advance() follows when every slot has been
  // written.
  void append(size_t i, const Tensor& values) const;
  void advance(int64_t tokens);

 private:
  std::vector<Tensor> slots_;
  int64_t batch_, capacity_, length_ = 0;
};

// For counting FLOPs.
struct AttentionWork {
  // Scores and outputs: heads * (qk_width + v_width) multiply-adds a pair of positions.
  int64_t heads, qk_width, v_width;
  int64_t contraction = 0;  // multiply-adds a token that make q, k, v from factors, outside of matrix products
};

class Attention {
 public:
  virtual ~Attention() = default;

  // Causal attention over whole windows: n [batch * tokens, C] -> [batch * tokens, C], W_o included; on the tape.
  virtual Variable forward(const Variable& n, const AttentionContext& context) const = 0;

  // Appends context.tokens new tokens to the cache (context.position == cache.length() before) and attends to all of
  // it: n [batch * tokens, C] -> [batch * tokens, C]. Equal to the last rows of forward() over everything so far.
  virtual Tensor decode(const Tensor& n, const AttentionContext& context, LayerCache& cache) const = 0;

  virtual CacheLayout cache_layout() const = 0;
  virtual AttentionWork work() const = 0;
  // Numbers a token that forward() keeps for backward in compute precision, besides its input; for memory estimates.
  virtual int64_t saved_numbers() const = 0;
  // Of these, how many a kind with factors makes again under AttentionContext::rebuild_qkv: q, k and v.
  virtual int64_t rebuilt_numbers() const { return 0; }
  virtual int64_t rope_width() const = 0;  // how many dimensions of a head RoPE turns
};

}  // namespace t6
