#include "cli/rank_arguments.h"

#include "base/build_info.h"
#include "cli/arguments.h"

namespace t6::cli {

void add_rank_arguments(CLI::App* command, dist::RankFlags& flags) {
  const auto number = [&](const char* name, std::optional<int64_t>& value, int64_t min, const char* purpose) {
    command->add_option(name, value, purpose)->type_name("N")->transform(integer_between(min, 1 << 20));
  };
  number("--rank", flags.rank, 0,
         "which rank of a run on many this process is; mpirun, srun, torchrun and t6 launch say it");
  number("--world", flags.world, 1, "how many ranks there are");
  number("--local-rank", flags.local_rank, 0, "which of its host's ranks it is: the GPU it takes");
  number("--local-world", flags.local_world, 1, "how many ranks its host has");
  command->add_option("--address", flags.address, "where rank 0 listens: a free port of its host")
      ->type_name("HOST:PORT");
}

void require_same_build(dist::Connection& ranks) {
  ranks.require_same("build of t6",
                     fmt::format("{} {} {}", build_info::version(), build_info::commit(), build_info::flags()),
                     "start the same program everywhere");
}

}  // namespace t6::cli
