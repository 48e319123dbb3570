// Starts a program that the kernel holds to a promise: no network, no other program, no file written but below a
// folder.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "support/program_run.h"

namespace t6::test {

// As start_program(), under a seccomp filter that ends the process with SIGSYS at its first call of socket, connect,
// execve (but the one that starts it), execveat or io_uring, and, where the kernel has Landlock, with nothing
// to be created, changed or removed but below `writable` and in /dev. Exit code 97: the kernel offers no seccomp.
pid_t start_confined(const char* program, const std::vector<std::string>& arguments,
                     const std::filesystem::path& folder, const std::filesystem::path& writable,
                     const Environment& environment = {});

bool kernel_has_landlock();

// Every file below `folder` with size, time of its last change, inode and content; links as links.
std::map<std::string, std::string> tree_of(const std::filesystem::path& folder);

}  // namespace t6::test
