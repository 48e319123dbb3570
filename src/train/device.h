// Where a run computes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "dist/ranks.h"
#include "tensor/device.h"
#include "train/run_config.h"

namespace t6::train {

// auto: GPU number `gpu` where there is one at all, otherwise the CPU. Error(usage) when a GPU is asked for by name and
// none can be used, with the reason; `asked_by` is the option that named it.
Device choose_device(DeviceChoice choice, std::string_view asked_by = "run.device: cuda", int gpu = 0);
// The same for one of many ranks, each of which takes a GPU of its host. Error(usage) also where there are fewer GPUs.
Device choose_device(DeviceChoice choice, std::string_view asked_by, const dist::Ranks& ranks);

// Sets how kernels of the whole process choose between algorithms.
void set_determinism(Determinism determinism);

// For env.json: name, memory, versions of driver, runtime and libraries, and which attention kernels run.
nlohmann::ordered_json describe_gpu(Device device);

}  // namespace t6::train
