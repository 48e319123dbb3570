// The words that t6 launch passes on.
#pragma once

#include <string>
#include <vector>

namespace t6::cli {

// Takes COMMAND... out of the words of `t6 launch OPTIONS [--] COMMAND...`: they are no options of launch. Other
// command lines stay as they are.
std::vector<std::string> take_launched_command(std::vector<std::string>& arguments);

// Whether this command of t6 says that it computes on the CPU, by its words or by the config that they name.
bool computes_on_cpu(const std::vector<std::string>& words);

}  // namespace t6::cli
