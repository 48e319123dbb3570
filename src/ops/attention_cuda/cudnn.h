// cuDNN's fused attention. The library is loaded at run time and never linked: programs start without it.
#pragma once

#include <string>

#include "ops/attention.h"

namespace t6::cuda::cudnn {

struct Library {
  bool available = false;
  std::string what;  // "cuDNN 9.24.0", or why there is none, as a clause
  std::string why;   // the same at length
};
// Loads it at the first call; the environment variable T6_CUDNN may name its file.
const Library& library();

// False, with nothing done, where cuDNN is not there or does not take these arguments: bf16, no offset, as many keys as
// queries, widths divisible by 8. Each shape is prepared at its first call, which must not be captured in a graph; all
// shapes share one block of working memory. Where `required`, Error(usage) in place of false when cuDNN should have
// taken them.
bool attention(const AttentionArgs& args, bool required);
bool attention_backward(const AttentionBackwardArgs& args, bool deterministic, bool required);

}  // namespace t6::cuda::cudnn
