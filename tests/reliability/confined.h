// Starts a program that the kernel holds to a promise: no network, no other program, no file written but below a
// folder.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "support/program_run.h"

namespace t6::test {

struct ConfinedOutcome : Outcome {
  // The calls of the program and of all processes it started that were refused (EPERM), by their names: socket,
  // connect, execve, execveat and io_uring_setup are.
  std::vector<std::string> refused;
};

// As start_program() and finish_program(), with those calls refused and noted, and, where the kernel has Landlock, with
// nothing to be created, changed or removed but below `writable` and in /dev. Exit code 97: it has no such rules.
// std::system_error when the kernel offers no seccomp.
ConfinedOutcome run_confined(const char* program, const std::vector<std::string>& arguments,
                             const std::filesystem::path& folder, const std::filesystem::path& writable,
                             const Environment& environment = {});

bool kernel_has_landlock();

// Every file below `folder` with size, time of its last change, inode and content; links as links.
std::map<std::string, std::string> tree_of(const std::filesystem::path& folder);

}  // namespace t6::test
