#include "model/transformer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/attention_registry.h"
#include "ops/classifier.h"
#include "ops/embedding.h"
#include "ops/rms_norm.h"

namespace t6 {

size_t DecodeState::bytes() const {
  size_t n = 0;
  for (const LayerCache& layer : layers) n += layer.bytes();
  return n;
}

Transformer::Transformer(const ModelConfig& config) : config_(config) {
  const double bound = 1 / std::sqrt(static_cast<double>(config.width));
  wte_ = &store_.declare({{"transformer.wte.weight", {config.vocab_size, config.width}, Init::uniform(bound), 0}},
                         {config.vocab_size, config.width});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "transformer.h." + std::to_string(layer) + ".";
    Block block;
    block.attention = make_attention(store_, prefix + "attn.", config);
    block.mlp = std::make_unique<SwiGluMlp>(store_, prefix + "mlp.", config.width, config.feed_forward_width());
    blocks_.push_back(std::move(block));
  }
}

void Transformer::allocate(DType compute, Device device, int64_t multiple, std::vector<Span> masters) {
  store_.allocate(compute, device, multiple, std::move(masters));
  make_rope(compute, device);
}

void Transformer::allocate_for_inference(DType compute, Device device) {
  store_.allocate_for_inference(compute, device);
  make_rope(compute, device);
}

void Transformer::make_rope(DType compute, Device device) {
  rope_ = make_rope_table(config_.context, attention().rope_width(), config_.rope_theta,
                          config_.rope_table == RopeRounding::bf16, accumulate_dtype(compute))
              .to(device);
}

// Kernels on a GPU do not check what they are given, so ids are checked here, on their way there.
Tensor Transformer::on_device(const Tensor& ids) const {
  const Device device = store_.master().device();
  if (ids.device() == device) return ids;
  check_ids(ids);
  return ids.to(device);
}

void Transformer::check_ids(const Tensor& ids) const {
  const int32_t* id = ids.data<int32_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] < 0 || id[i] >= config_.vocab_size) {
      fail(ExitCode::data, "expected token ids in [0, {}), got {}; the data was made for another vocabulary",
           config_.vocab_size, id[i]);
    }
  }
}

Variable Transformer::embed(const Tensor& tokens) const {
  return embedding(wte_->variable(), tokens.view({tokens.numel()}), accumulate_dtype(store_.compute_dtype()));
}

Variable Transformer::hidden(const Tensor& tokens, Recompute recompute) const {
  const AttentionContext context{tokens.dim(0), tokens.dim(1), 0, &rope_, recompute == Recompute::qkv};
  const double eps = config_.norm_eps;
  Variable x = embed(on_device(tokens));
  Variable n = rms_norm(x, eps, store_.compute_dtype());
  for (const Block& block : blocks_) {
    const Segment attend = [&block, context](const std::vector<Variable>& in) {
      return std::vector<Variable>{block.attention->forward(in[0], context)};
    };
    const Segment whole = [&block, attend, eps, recompute](const std::vector<Variable>& in) {
      const Variable a = recompute == Recompute::attention ? t6::recompute(attend, {in[1]})[0] : attend({in[1]})[0];
      const AddRmsNorm middle = add_rms_norm(in[0], a, eps);
      const AddRmsNorm end = add_rms_norm(middle.sum, block.mlp->forward(middle.norm), eps);
      return std::vector<Variable>{end.sum, end.norm};
    };
    std::vector<Variable> out = recompute == Recompute::block ? t6::recompute(whole, {x, n}) : whole({x, n});
    x = std::move(out[0]);
    n = std::move(out[1]);
  }
  return n;
}

Variable Transformer::loss(const Tensor& tokens, const Tensor& targets, double scale, Recompute recompute,
                           Tensor* row_losses) const {
  return classifier_loss(hidden(tokens, recompute), wte_->variable(), on_device(targets), scale, 0, row_losses);
}

Tensor Transformer::logits(const Tensor& tokens) const {
  const NoGrad no_grad;
  return classifier_logits(hidden(tokens, Recompute::none).value(), wte_->variable().value())
      .view({tokens.dim(0), tokens.dim(1), config_.vocab_size});
}

Tensor Transformer::hidden_at(const Tensor& tokens, std::span<const Rows> rows) const {
  const NoGrad no_grad;
  const Tensor all = hidden(tokens, Recompute::none).value();
  int64_t count = 0;
  for (const Rows& each : rows) count += each.count;
  const Tensor chosen = Tensor::empty({count, config_.width}, all.dtype(), all.device());
  int64_t at = 0;
  for (const Rows& each : rows) {
    chosen.rows(at, each.count).copy_from(all.view({tokens.numel(), config_.width}).rows(each.begin, each.count));
    at += each.count;
  }
  return chosen;
}

Tensor Transformer::head(const Tensor& hidden) const {
  const NoGrad no_grad;
  return classifier_logits(hidden, wte_->variable().value());
}

DecodeState Transformer::new_decode_state(int64_t batch, int64_t capacity) const {
  DecodeState state;
  for (const Block& block : blocks_) {
    state.layers.emplace_back(block.attention->cache_layout(), batch, capacity, store_.compute_dtype(),
                              store_.master().device());
  }
  return state;
}

Tensor Transformer::decode(const Tensor& tokens, DecodeState& state) const {
  const NoGrad no_grad;
  const int64_t batch = tokens.dim(0), count = tokens.dim(1), width = config_.width;
  const AttentionContext context{batch, count, state.length(), &rope_};
  T6_CHECK(context.position + count <= std::min(state.capacity(), config_.context),
           "[decode] expected at most {} tokens, got {} more after {}", std::min(state.capacity(), config_.context),
           count, context.position);
  Variable x = embed(on_device(tokens));
  Variable n = rms_norm(x, config_.norm_eps, store_.compute_dtype());
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const Variable a(blocks_[layer].attention->decode(n.value(), context, state.layers[layer]));
    const AddRmsNorm middle = add_rms_norm(x, a, config_.norm_eps);
    const AddRmsNorm end = add_rms_norm(middle.sum, blocks_[layer].mlp->forward(middle.norm), config_.norm_eps);
    x = end.sum;
    n = end.norm;
  }
  const Tensor last = Tensor::empty({batch, width}, n.dtype(), n.device());
  for (int64_t b = 0; b < batch; ++b) {
    last.rows(b, 1).copy_from(n.value().slice(((b + 1) * count - 1) * width, {width}));
  }
  return classifier_logits(last, wte_->variable().value());
}

}  // namespace t6
