// Runs a target without libFuzzer: its seeds, a few thousand changes of them, and files of earlier findings.
//
//   t6_fuzz_replay TARGET [--changes N] [FILE or FOLDER...]
//   t6_fuzz_replay --list
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "base/io.h"
#include "base/rng.h"
#include "fuzz/fuzz_target.h"

namespace t6::fuzz {
namespace {

namespace fs = std::filesystem;

// The same in every run: bytes changed, cut out, doubled, the end cut off.
std::string changed(std::string text, Philox& rng, uint64_t number, size_t max_bytes) {
  uint64_t draw = number << 8;
  const auto below = [&](size_t bound) { return static_cast<size_t>(rng.below(draw++, std::max<size_t>(1, bound))); };
  for (size_t times = 1 + below(4); times > 0 && !text.empty(); --times) {
    const size_t at = below(text.size()), length = std::min(text.size() - at, 1 + below(16));
    switch (below(6)) {
      case 0:
        text[at] = static_cast<char>(below(256));
        break;
      case 1:
        text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(below(text.size()), text.substr(at, length));
        break;
      case 4:
        text.resize(at);
        break;
      default:
        text[at] = "{}[]:,\"'\n -0"[below(12)];
    }
  }
  if (text.size() > max_bytes) text.resize(max_bytes);
  return text;
}

int replay(Target& target, uint64_t changes, const std::vector<fs::path>& paths) {
  size_t files = 0;
  const auto run_file = [&](const fs::path& path) {
    fmt::print("{}\n", path.string());
    std::fflush(stdout);
    run(target, io::read_text(path));
    ++files;
  };
  for (const fs::path& path : paths) {
    if (!fs::is_directory(path)) {
      run_file(path);
      continue;
    }
    for (const std::string& name : io::list_folder(path)) run_file(path / name);
  }
  const std::vector<std::string> seeds = target.seeds();
  require(!seeds.empty(), "{} has no seeds", target.name);
  for (const std::string& seed : seeds) run(target, seed);
  Philox rng(1, RngPurpose::test);
  for (uint64_t i = 0; i < changes; ++i) run(target, changed(seeds[i % seeds.size()], rng, i, target.max_bytes));
  fmt::print("{}: {} files, {} seeds, {} changes of them {}\n", target.name, files, seeds.size(), changes,
             target.summary);
  return 0;
}

}  // namespace
}  // namespace t6::fuzz

int main(int argc, char** argv) {
  using namespace t6::fuzz;
  const std::vector<std::string_view> arguments(argv + 1, argv + argc);
  if (arguments.size() == 1 && arguments[0] == "--list") {
    for (const Target* target : targets()) fmt::print("{}\n", target->name);
    return 0;
  }
  Target* const target = arguments.empty() ? nullptr : find(arguments[0]);
  if (target == nullptr) {
    fmt::print(stderr, "expected the name of a target, one of those that --list prints\n");
    return 2;
  }
  uint64_t changes = 0;
  std::vector<std::filesystem::path> paths;
  for (size_t i = 1; i < arguments.size(); ++i) {
    if (arguments[i] == "--changes" && i + 1 < arguments.size()) {
      const std::string_view number = arguments[++i];
      std::from_chars(number.data(), number.data() + number.size(), changes);
    } else {
      paths.emplace_back(arguments[i]);
    }
  }
  return replay(*target, changes, paths);
}
