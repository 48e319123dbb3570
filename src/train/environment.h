// env.json: what a run was made with, program, machine and libraries.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace t6::train {

// Version, commit, compiler, flags, build type; processor, cores, instruction sets; memory; versions of libraries;
// OpenMP threads; host, system, command line, folder, process, date (UTC). `arguments` is the command line; `libraries`
// adds (name, version) pairs that this folder cannot know, such as oneDNN's. Callers with a GPU add their own entry
// "gpu". What cannot be read is left out; never throws for that.
nlohmann::ordered_json describe_environment(std::span<const std::string> arguments,
                                            const std::vector<std::pair<std::string, std::string>>& libraries);

// The same without what differs between two starts of one program on one machine: date, process, command line, folder,
// a measured peak, algorithms that a clock may have chosen. For comparison.
nlohmann::ordered_json lasting_environment(const nlohmann::ordered_json& environment);

}  // namespace t6::train
