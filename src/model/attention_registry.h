// From a config's attention kind to its module.
#pragma once

#include <memory>
#include <string>

#include "model/model_config.h"
#include "nn/attention/attention.h"

namespace t6 {

// Declares the parameters "<prefix>..." of one attention layer of config's kind in `store`.
std::unique_ptr<Attention> make_attention(ParameterStore& store, const std::string& prefix, const ModelConfig& config);

}  // namespace t6
