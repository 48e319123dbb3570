// What a model costs, from its declared parameters and caches: nothing here is measured or allocated.
#pragma once

#include <cstdint>

#include "model/transformer.h"

namespace t6 {

struct ModelCounts {
  int64_t parameters = 0;         // numbers in all named tensors, the tied head once, no padding
  int64_t matmul_parameters = 0;  // of these, those in products (no norm weights); counts the head, not the gather
  // Training FLOPs a token in windows of `context`: 6 matmul_parameters + attention, forward and backward.
  double flops_causal = 0;  // each pair of positions that attends counted once: 6 L T H (D_qk + D_v) / 2
  double flops_full = 0;    // as if every position attended to all: 6 L T H (D_qk + D_v), "full-attention convention"
  double flops_contraction = 0;  // of q, k, v from factors, in neither of the two: 6 L H D (R_Q + R_K + R_V)
  int64_t cache_numbers = 0;     // decode cache a token, all layers; bytes in bf16 are twice this
};

ModelCounts count(const Transformer& model);

// How a training step is run, as far as its memory depends on it.
struct MemoryOptions {
  int64_t micro_batch = 1;  // windows
  DType compute = DType::f32;
  Recompute recompute = Recompute::none;
  Device device = kCpu;
  bool cudnn = false;          // on a GPU: its attention in bf16, as it is where the library is there
  bool deterministic = false;  // gradients of that attention
  bool cuda_graph = false;     // on a GPU: the micro-step is a captured graph
  int64_t world = 1;           // ranks
  bool zero = false;           // that keep AdamW's moments and f32 masters together, a part each
  int64_t micro_steps = 1;     // of a rank in a step
  bool tree = false;           // their gradients are added up as a tree
  int64_t scratch = 0;         // bytes, of the sum over ranks after the last of them
  bool async_save = false;     // checkpoints are written beside the training, from a copy in host memory
};

// Bytes that one rank needs to train: estimate of what allocation will show.
struct MemoryEstimate {
  Device device = kCpu;
  int64_t parameters = 0;   // masters, gradients, AdamW moments, bf16 copies
  int64_t held = 0;         // gradients that wait for their sibling in a tree of micro-steps
  int64_t save_copy = 0;    // in host memory: what this rank saves, while it is written beside the training
  int64_t activations = 0;  // at the step's peak
  int64_t workspace = 0;    // on a GPU: what products and attention compute in
  // What no tensor of a step holds, on a GPU alone: the driver's context with the libraries' kernels, and what runs
  // while a captured graph keeps its own: an evaluation, or on several ranks the last micro-step.
  int64_t beside = 0;

  // Of the device's tensors: gpu::peak_bytes(), or on a CPU memory::usage().peak.
  int64_t total() const { return parameters + held + activations + workspace + (device.is_cpu() ? save_copy : 0); }
  int64_t on_device() const { return total() + beside; }                     // what must be free before the start
  int64_t on_host() const { return device.is_cpu() ? total() : save_copy; }  // of the host's memory
};
MemoryEstimate estimate_memory(const Transformer& model, const MemoryOptions& options);

}  // namespace t6
