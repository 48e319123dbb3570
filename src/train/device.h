// Where a run computes.
#pragma once

#include "tensor/device.h"
#include "train/run_config.h"

namespace t6::train {

// auto: the first GPU where there is one, otherwise the CPU. Error(usage) when a GPU is asked for by name and none can be
// used, with the reason.
Device choose_device(DeviceChoice choice);

}  // namespace t6::train
