#include "train/device.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "dist/connect.h"
#include "ops/attention_backend.h"
#include "ops/matmul.h"
#include "tensor/gpu.h"

namespace t6::train {

Device choose_device(DeviceChoice choice, std::string_view asked_by, int gpu) {
  if (choice == DeviceChoice::cpu) return kCpu;
  if (gpu::count() > 0) {
    gpu::use(gpu);
    return {Device::Kind::cuda, gpu};
  }
  if (choice == DeviceChoice::cuda) {
    fail(ExitCode::usage, "{} asks for a GPU, but {}; choose cpu or auto", asked_by, gpu::why_none());
  }
  return kCpu;
}

Device choose_device(DeviceChoice choice, std::string_view asked_by, const dist::Ranks& ranks) {
  const bool asks = choice != DeviceChoice::cpu && gpu::count() > 0;
  return choose_device(choice, asked_by, asks ? dist::choose_gpu(ranks, gpu::count()) : 0);
}

void set_determinism(Determinism determinism) {
  const bool strict = determinism == Determinism::strict;
  set_matmul_choice(strict ? MatmulChoice::first : MatmulChoice::timed);
  AttentionBackend attention = attention_backend();
  attention.deterministic = strict;
  set_attention_backend(attention);
}

nlohmann::ordered_json describe_gpu(Device device) {
  const gpu::Info info = gpu::info(device.index);
  return {{"name", info.name},
          {"compute_capability", info.compute_capability},
          {"multiprocessors", info.multiprocessors},
          {"memory", info.memory_bytes},
          {"driver", info.driver},
          {"runtime", info.runtime},
          {"cublasLt", gpu_matmul_library_version()},
          {"attention", describe_attention_backend()}};
}

}  // namespace t6::train
