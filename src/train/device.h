// Where a run computes.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "tensor/device.h"
#include "train/run_config.h"

namespace t6::train {

// auto: the first GPU where there is one, otherwise the CPU. Error(usage) when a GPU is asked for by name and none can be
// used, with the reason.
Device choose_device(DeviceChoice choice);

// Sets how kernels of the whole process choose between algorithms.
void set_determinism(Determinism determinism);

// For env.json: name, memory, versions of driver, runtime and libraries, and which attention kernels run.
nlohmann::ordered_json describe_gpu(Device device);

}  // namespace t6::train
