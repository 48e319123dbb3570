// Work on data that is not trusted, done in a forked child with limits: a crash or an endless loop ends the child
// alone.
//
// Forking while other threads run. The child has only the calling thread, so it must not wait for a lock that another
// thread held at the fork. What the child may use: malloc and free (glibc brings its locks through a fork), system
// calls, C++ exceptions (their unwinding takes no lock with the glibc 2.35 and GCC 12 that this program asks for), and
// libraries whose locks the caller holds or knows to be free: hdf5::Guard for libhdf5. What it must not use: log,
// stdio, OpenMP, a GPU, static variables that are not yet initialised. It leaves by _exit: no destructor or exit
// handler of the parent runs in it. Should a lock be held in spite of all that, the time limit ends the child and the
// caller hears of it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace t6 {

struct ChildLimits {
  uint64_t memory_bytes = uint64_t{512} << 20;  // beside what the parent has mapped
  int processor_seconds = 5;
  int seconds = 60;  // on the clock: storage may be slow
};

struct ChildResult {
  std::string text;     // what `work` returned
  std::string failure;  // why there is none, such as "it crashed (Segmentation fault)"; empty when there is one
};

// Runs `work` in a child, which can put nothing into a file, and gives what it returned, of any size up to 64 MiB. An
// Error that it throws is thrown here. `work` is material of an untrusted process: check what it says. Error(io) when
// there is no process or pipe to be had.
ChildResult run_in_child(const std::function<std::string()>& work, const ChildLimits& limits = {});

// For tests of several threads under a sanitizer, whose allocator, unlike glibc's, takes no locks through a fork:
// from now on work is done in this process, unprotected; false ends it.
void run_children_here(bool here);

}  // namespace t6
