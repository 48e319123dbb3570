// Which GPU of all in the world a device is.
#pragma once

#include <string>

namespace t6::gpu {

// "GPU-" and 32 hex digits, another for each device, and for each part of one that is split; "" where it has none.
// Error(internal) as of gpu.h where there is no GPU.
std::string identity(int index);

}  // namespace t6::gpu
