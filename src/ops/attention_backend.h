// Which kernels attention runs on a GPU: cuDNN's, loaded at run time, or this project's own.
//
// cuDNN serves bf16 with as many keys as queries (training, evaluation); f32 and decoding always run on the own
// kernels. Both save the same log-sum-exp, so a backward may follow either forward.
#pragma once

#include <string>

namespace t6 {

enum class AttentionKernels {
  // cuDNN where it is there and takes the shape, the own ones otherwise; the log names each shape it does not take.
  automatic,
  // Error(usage) where cuDNN is missing or does not take a shape it is meant for.
  cudnn,
  own,
};

struct AttentionBackend {
  AttentionKernels kernels = AttentionKernels::automatic;
  // Gradients are the same bits each time. The own kernels always do that; cuDNN takes longer and more memory for it.
  bool deterministic = false;
};

// For calls from now on. The environment variable T6_ATTENTION (auto, cudnn, own) goes before `kernels`; Error(usage)
// when it holds anything else.
void set_attention_backend(const AttentionBackend& backend);
AttentionBackend attention_backend();

// Whether cuDNN can be used on this machine; loads it.
bool cudnn_available();

// For env.json: "cuDNN 9.24.0", "cuDNN 9.24.0, deterministic", "own kernels (libcudnn.so.9 was not found: ...)".
std::string describe_attention_backend();

enum class AttentionPass { forward, backward };
// Kernels that attention on a GPU was given to since the process began or forget_attention_kernels() was called:
// "cuDNN", "own kernels", "cuDNN and own kernels"; empty: it never ran. What a captured graph repeats counts as it is
// captured.
std::string attention_kernels_used(AttentionPass pass);
void forget_attention_kernels();
// By attention itself.
void note_attention_kernels(AttentionPass pass, AttentionKernels kernels);

}  // namespace t6
