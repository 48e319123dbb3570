#include "train/device.h"

#include "base/error.h"
#include "tensor/gpu.h"

namespace t6::train {

Device choose_device(DeviceChoice choice) {
  if (choice == DeviceChoice::cpu) return kCpu;
  if (gpu::count() > 0) {
    gpu::use(0);
    return {Device::Kind::cuda, 0};
  }
  if (choice == DeviceChoice::cuda) {
    fail(ExitCode::usage, "run.device: cuda asks for a GPU, but {}; write `run.device: cpu` or auto", gpu::why_none());
  }
  return kCpu;
}

}  // namespace t6::train
