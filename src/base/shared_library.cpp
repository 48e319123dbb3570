#include "base/shared_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <utility>

#include "base/error.h"

namespace t6 {

SharedLibrary::SharedLibrary(std::string what, const char* variable, std::vector<std::string> names)
    : what_(std::move(what)), variable_(variable) {
  const char* chosen = std::getenv(variable);
  if (chosen != nullptr && *chosen != '\0') names = {chosen};
  std::string tried;
  for (const std::string& name : names) {
    handle_ = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
      name_ = name;
      return;
    }
    const char* reason = ::dlerror();
    tried += fmt::format("\n  {}: {}", name, reason != nullptr ? reason : "cannot be loaded");
  }
  fail(ExitCode::usage, "expected {}, found none; install it, or set {} to its file. Tried:{}", what_, variable_,
       tried);
}

void* SharedLibrary::function(const char* name) const {
  void* address = ::dlsym(handle_, name);
  if (address == nullptr) {
    fail(ExitCode::usage, "expected {} with a function {}, but {} has none; set {} to another file", what_, name, name_,
         variable_);
  }
  return address;
}

}  // namespace t6
