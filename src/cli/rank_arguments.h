// The arguments --rank, --world, --local-rank, --local-world and --address of commands that may run on many ranks.
#pragma once

#include <CLI/CLI.hpp>

#include "dist/discover.h"

namespace t6::cli {

// Adds them; `flags` must outlive the parse. dist::discover() judges what was given.
void add_rank_arguments(CLI::App* command, dist::RankFlags& flags);

}  // namespace t6::cli
