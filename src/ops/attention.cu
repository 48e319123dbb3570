#include "ops/attention.h"

#include "base/error.h"
#include "ops/attention_backend.h"
#include "ops/attention_cuda/cudnn.h"
#include "ops/attention_cuda/own.h"

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

}  // namespace

void attention(const AttentionArgs& args) {
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
