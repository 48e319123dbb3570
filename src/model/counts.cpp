#include "model/counts.h"

#include <algorithm>
#include <bit>

#include "ops/classifier.h"
#include "ops/matmul.h"

namespace t6 {

ModelCounts count(const Transformer& model) {
  const ModelConfig& config = model.config();
  ModelCounts counts;
  counts.parameters = model.parameters().count();
  model.parameters().for_each_view([&](const Parameter& p, const ParameterView& v) {
    if (p.is_matrix()) counts.matmul_parameters += v.shape.numel();
  });
  const AttentionWork work = model.attention().work();
  const double full = 6.0 * static_cast<double>(config.layers * config.context) *
                      static_cast<double>(work.heads * (work.qk_width + work.v_width));
  counts.flops_causal = 6.0 * static_cast<double>(counts.matmul_parameters) + full / 2;
  counts.flops_full = 6.0 * static_cast<double>(counts.matmul_parameters) + full;
  counts.flops_contraction = 6.0 * static_cast<double>(config.layers * work.contraction);
  counts.cache_numbers = config.layers * numbers_per_token(model.attention().cache_layout());
  return counts;
}

namespace {

// Of a process with CUDA's context and the kernels of cuBLASLt and cuDNN that one model needs: set aside, not measured.
constexpr int64_t kDriverBytes = int64_t{768} << 20;

// What cuDNN's fused attention works in, by its frontend's own sums: backward adds up dq in f32, or, where its bits
// must repeat, keeps the gradient of the scores in bf16; both keep a number a row.
int64_t cudnn_workspace(const AttentionWork& work, int64_t batch, int64_t context, bool deterministic) {
  const int64_t rows = batch * work.heads * context;
  const int64_t scores = padded(context, 64) * 2, dq = work.qk_width * 4;
  return rows * ((deterministic ? scores : dq) + 4);
}

int64_t divided(int64_t count, int64_t among) {
  return (count + among - 1) / among;
}

// Of a tree that halves until one micro-step is left: in each but the last a gradient waits.
int64_t levels(int64_t micro_steps) {
  return std::bit_width(static_cast<uint64_t>(micro_steps - 1));
}

}  // namespace

MemoryEstimate estimate_memory(const Transformer& model, const MemoryOptions& options) {
  const ModelConfig& config = model.config();
  const bool on_gpu = options.device.is_cuda();
  const Recompute recompute = options.recompute;
  const int64_t tokens = options.micro_batch * config.context, width = config.width;
  const auto element = static_cast<int64_t>(size_of(options.compute));
  const auto wide = static_cast<int64_t>(size_of(accumulate_dtype(options.compute)));  // residual, masters, moments

  MemoryEstimate estimate;
  const int64_t size = model.parameters().storage_size();
  // Of the masters beside a bf16 copy and the moments a rank holds its part, or all.
  const bool copies = options.compute == DType::bf16;
  const int64_t held = divided(size, options.zero ? options.world : 1) * wide;
  estimate.device = options.device;
  estimate.parameters = size * wide + (copies ? size * element + held : size * wide) + 2 * held;
  if (options.tree) estimate.held = levels(options.micro_steps) * size * wide;
  if (options.async_save) estimate.save_copy = divided(3 * model.parameters().count(), options.world) * wide;
  const int64_t scratch = std::min(options.scratch, size * wide);

  // A token's share of one block: two residual sums and two normed inputs, attention's own, gate | up and their
  // product.
  const int64_t residual = width * (wide + element);
  const int64_t mlp = 3 * padded(config.feed_forward_width(), kPadding) * element;
  const int64_t attention = model.attention().saved_numbers() * element;
  const int64_t whole = 2 * residual + attention + mlp;
  const int64_t qkv = recompute == Recompute::qkv ? model.attention().rebuilt_numbers() * element : 0;
  const int64_t kept = recompute == Recompute::block       ? residual
                       : recompute == Recompute::attention ? whole - attention
                                                           : whole - qkv;
  estimate.activations = tokens * (config.layers * kept + residual + width * element);
  // The peak is where the logits are, or in the last block's backward: the MLP's gradients, beside what was rebuilt and
  // less what its MLP no longer needs by the time attention is rebuilt.
  const int64_t logits =
      std::min(tokens, classifier_chunk_rows(options.device)) * config.vocab_size * (on_gpu ? element : wide);
  // Queries, keys and values stand beside their gradients and that of the output.
  const int64_t rebuilt = recompute == Recompute::qkv         ? std::max<int64_t>(0, 2 * qkv + qkv / 3 - 2 * mlp)
                          : recompute == Recompute::attention ? std::max<int64_t>(0, attention - mlp)
                                                              : whole - kept;
  estimate.activations += std::max(logits, tokens * (rebuilt + mlp));
  const bool graph = on_gpu && options.cuda_graph && (options.world == 1 || options.micro_steps > 1);
  if (!graph) estimate.activations = std::max(estimate.activations, scratch);
  if (!on_gpu) return estimate;

  estimate.workspace = kMatmulWorkspaceBytes;
  if (options.cudnn && options.compute == DType::bf16) {
    estimate.workspace +=
        cudnn_workspace(model.attention().work(), options.micro_batch, config.context, options.deterministic);
  }
  estimate.beside = kDriverBytes;
  if (graph) {
    const int64_t evaluation = tokens * whole + logits, last_step = options.world > 1 ? estimate.activations : 0;
    estimate.beside += std::max({evaluation, last_step, scratch});
  }
  return estimate;
}

}  // namespace t6
