// The whole command line.
#pragma once

namespace t6::cli {

// Parses and runs; returns the exit code. Throws Error, and whatever else a bug throws.
int run(int argc, char** argv);

}  // namespace t6::cli
