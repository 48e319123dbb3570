// The arguments --rank, --world, --local-rank, --local-world and --address of commands that may run on many ranks.
#pragma once

#include <CLI/CLI.hpp>

#include "dist/connect.h"
#include "dist/discover.h"

namespace t6::cli {

// Adds them; `flags` must outlive the parse. dist::discover() judges what was given.
void add_rank_arguments(CLI::App* command, dist::RankFlags& flags);

// All ranks are this build of t6; where one is another the run ends as by Connection::require_same().
void require_same_build(dist::Connection& ranks);

}  // namespace t6::cli
