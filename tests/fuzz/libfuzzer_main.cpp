// libFuzzer's entry: t6_fuzz --target=NAME [libFuzzer's own options], t6_fuzz --list, t6_fuzz --write-seeds=FOLDER.
#include <cstdio>
#include <fstream>

#include "fuzz/fuzz_target.h"

namespace {

t6::fuzz::Target* chosen = nullptr;

void list() {
  for (const auto* target : t6::fuzz::targets()) {
    fmt::print("{} {} {} {}\n", target->name, target->max_bytes,
               target->planted ? "planted"
               : target->forks ? "forks"
                               : "plain",
               target->reads);
  }
}

void write_seeds(const std::filesystem::path& folder) {
  for (const auto* target : t6::fuzz::targets()) {
    std::filesystem::create_directories(folder / target->name);
    size_t number = 0;
    for (const std::string& seed : target->seeds()) {
      std::ofstream(folder / target->name / fmt::format("seed-{:03}", number++), std::ios::binary) << seed;
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = (*argv)[i];
    if (argument == "--list") {
      list();
      std::exit(0);
    } else if (argument.starts_with("--write-seeds=")) {
      write_seeds(argument.substr(14));
      std::exit(0);
    } else if (argument.starts_with("--target=")) {
      chosen = t6::fuzz::find(argument.substr(9));
    } else {
      (*argv)[kept++] = (*argv)[i];
    }
  }
  *argc = kept;
  if (chosen == nullptr) {
    fmt::print(stderr, "expected --target=NAME with a name that --list prints\n");
    std::exit(2);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  t6::fuzz::run(*chosen, {reinterpret_cast<const char*>(data), size});
  return 0;
}
