// The Python files by which AutoModelForCausalLM of transformers loads models of the tensor product kinds: those in
// checkpoint/remote_code, as they were when t6 was built.
#pragma once

#include <array>
#include <string_view>

namespace t6::checkpoint {

struct RemoteCodeFile {
  std::string_view name;
  std::string_view text;
};

// configuration_t6.py and modeling_t6.py. Beside model.safetensors in the authors' names and a config.json with
// model_type t6 (the keys: class T6Config in the first) and auto_map.
const std::array<RemoteCodeFile, 2>& remote_code_files();

}  // namespace t6::checkpoint
