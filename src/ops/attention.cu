#include "ops/attention.h"

#include <algorithm>

#include "base/error.h"
#include "ops/attention_backend.h"
#include "ops/attention_cuda/cudnn.h"
#include "ops/attention_cuda/own.h"
#include "ops/decode_cuda/decode.h"

namespace t6::cuda {
namespace {

// Whether cuDNN is asked first.
bool tries_cudnn(const AttentionBackend& backend) {
  if (backend.kernels == AttentionKernels::own) return false;
  if (backend.kernels == AttentionKernels::cudnn && !cudnn::library().available) {
    ::t6::fail(ExitCode::usage, "attention is to run on cuDNN: {}", cudnn::library().why);
  }
  return true;
}

// Queries of a sequence up to which the time is that of reading keys and values; and the widest head that own kernels
// for more of them take.
constexpr int64_t kFewQueries = 8, kWidest = 256;

// New tokens against a cache: its rows are divided among all of the GPU, however few the tokens are. As many keys as
// queries are a whole window, which is cuDNN's where it is asked for.
bool is_decoding(const AttentionArgs& a) {
  const bool few = a.queries <= kFewQueries && a.keys > a.queries;
  return a.lse == nullptr && (few || std::max(a.qk_width, a.v_width) > kWidest);
}

DecodeArgs decode_args(const AttentionArgs& a) {
  return {.q = a.q,
          .a_k = nullptr,
          .b_k = a.k,
          .a_v = nullptr,
          .b_v = a.v,
          .lengths = nullptr,
          .o = a.o,
          .length = a.offset + a.queries,
          .batch = a.batch,
          .queries = a.queries,
          .capacity = a.keys,
          .groups = a.kv_heads,
          .heads = a.heads / a.kv_heads,
          .width = a.qk_width,
          .v_width = a.v_width,
          .rank_k = 1,
          .rank_v = 1,
          .scale = a.scale,
          .dtype = a.dtype};
}

}  // namespace

void attention(const AttentionArgs& args) {
  if (is_decoding(args)) {
    decode(decode_args(args));
    note_attention_kernels(AttentionPass::forward, AttentionKernels::own);
    return;
  }
  const AttentionBackend backend = attention_backend();
  const bool required = backend.kernels == AttentionKernels::cudnn;
  const bool done = tries_cudnn(backend) && cudnn::attention(args, required);
  if (!done) own::attention(args);
  note_attention_kernels(AttentionPass::forward, done ? AttentionKernels::cudnn : AttentionKernels::own);
}

void attention_backward(const AttentionBackwardArgs& args) {
  const AttentionBackend backend = attention_backend();
  const bool required = backend.kernels == AttentionKernels::cudnn;
  const bool done = tries_cudnn(backend) && cudnn::attention_backward(args, backend.deterministic, required);
  if (!done) own::attention_backward(args);
  note_attention_kernels(AttentionPass::backward, done ? AttentionKernels::cudnn : AttentionKernels::own);
}

}  // namespace t6::cuda
