#include "ops/attention.h"

#include "ops/attention_cuda/own.h"

namespace t6::cuda {

void attention(const AttentionArgs& args) {
  own::attention(args);
}

void attention_backward(const AttentionBackwardArgs& args) {
  own::attention_backward(args);
}

}  // namespace t6::cuda
