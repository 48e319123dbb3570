// Who this process is among those that work on one run.
#pragma once

namespace t6::dist {

struct Ranks {
  int rank = 0;
  int world = 1;
  int local_rank = 0;   // among the ranks of this host: the GPU it takes
  int local_world = 1;  // ranks of this host
};

}  // namespace t6::dist
