// Two names of the file system, swapped at once.
#pragma once

#include "base/io.h"

namespace t6::io {

// Whoever looks finds one file or folder under each name at every instant. False, with nothing changed, where the file
// system cannot; Error(io) otherwise. Durable after sync_directory. A rename for the fault hook.
bool exchange(const fs::path& one, const fs::path& other);

}  // namespace t6::io
