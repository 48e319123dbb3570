// How a process ends with its run while any of its threads may hang: past the locks that one may hold.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "dist/rendezvous.h"

namespace t6::dist {

// The one message on standard error, past stdio and log.
void write_line(const std::string& text);

// Ends those of `ranks` that are on the host of `own` and so can be: they cannot end themselves.
void kill_silent(const std::vector<Seat>& seats, int own, const std::vector<int>& ranks);

// Ends the process. `last` may wait for what a hanging thread holds, so it gets a second and no more.
[[noreturn]] void end_process(ExitCode code, const std::function<void()>& last);

// Ends a process whose run all ranks end alike, after what all agreed on, so that none has anything left to do: half a
// second later, for the rank that says why, then at once. mpirun ends the others, by SIGTERM and milliseconds later by
// SIGKILL, when the first one is gone: until then they end with their own code.
[[noreturn]] void leave_with_others(ExitCode code);

}  // namespace t6::dist
