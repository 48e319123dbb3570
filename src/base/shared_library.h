// A library of the system that is loaded when it is first needed, so that programs start where it is not installed.
#pragma once

#include <string>
#include <vector>

namespace t6 {

class SharedLibrary {
 public:
  // Loads the first of `names` (file names, looked for as the system does, or paths) that can be loaded. The
  // environment variable `variable`, when it is set, names the only file to try. `what` is the library's name in
  // messages. Error(usage) with all that was tried and why it failed, and the variable to set. Stays loaded until the
  // process ends.
  SharedLibrary(std::string what, const char* variable, std::vector<std::string> names);

  // Address of a function. Error(usage) when this library has none of that name.
  void* function(const char* name) const;

  // As dlopen gave it, for headers that look up functions themselves.
  void* handle() const { return handle_; }

  // The name it was loaded by.
  const std::string& name() const { return name_; }

 private:
  std::string what_;
  const char* variable_;
  std::string name_;
  void* handle_ = nullptr;
};

}  // namespace t6
