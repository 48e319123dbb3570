// One reader of outside bytes under the fuzzer: what it does with any input, and the inputs to begin from.
//
// A target is registered by a static object in its file. Two programs run targets: t6_fuzz (libFuzzer, preset fuzz,
// scripts/fuzz.sh) and t6_fuzz_replay (any compiler, in the ordinary suite). In both an input that takes more processor
// time than the target's limit is a finding, as is every way out of run() but a return.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace t6::fuzz {

struct Target {
  const char* name;
  const char* reads;  // what it feeds, for people
  void (*run)(std::string_view input);
  std::vector<std::string> (*seeds)();
  size_t max_bytes = 4096;   // of an input
  bool forks = false;        // reads in a child process: milliseconds an input
  bool planted = false;      // broken on purpose
  std::string summary = {};  // words for the report, set by run()
};

// All of them, by name.
std::vector<Target*>& targets();
Target* find(std::string_view name);

struct Registered {
  explicit Registered(Target described);
  Registered(const Registered&) = delete;
  Registered& operator=(const Registered&) = delete;
  Target target;
};

// Runs one input under the limit of processor time; keeps count. Ends the process on a finding.
void run(Target& target, std::string_view input);

// A finding: says what and aborts.
[[noreturn]] void finding(const std::string& what);

template <class... Args>
void require(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) finding(fmt::format(format, std::forward<Args>(args)...));
}

// Whether `read` returned. Error with one of `codes` is a refusal; any other exception is a finding.
template <class Read>
bool accepts(std::initializer_list<ExitCode> codes, Read&& read) {
  try {
    read();
    return true;
  } catch (const Error& error) {
    for (const ExitCode code : codes) {
      if (error.code() != code) continue;
      const bool said = error.what()[0] != '\0' || dynamic_cast<const SaidElsewhere*>(&error) != nullptr;
      require(said, "a refusal without a reason");
      return false;
    }
    finding(fmt::format("Error with exit code {}: {}", static_cast<int>(error.code()), error.what()));
  } catch (const std::exception& error) {
    finding(fmt::format("exception {}", error.what()));
  }
}

// The input cut at the byte 0x1e, into at least `least` pieces.
std::vector<std::string_view> pieces_of(std::string_view input, size_t least);
inline constexpr char kCut = '\x1e';

// A file in memory that readers of paths can open.
class MemoryFile {
 public:
  MemoryFile();
  // Its whole content from now on.
  const std::filesystem::path& hold(std::string_view bytes);

 private:
  int descriptor_;
  std::filesystem::path path_;
};

// A folder in memory where the system has one, removed when the process ends in order.
const std::filesystem::path& scratch_folder();

// A file of the source tree.
std::string source_file(const std::string& name);

}  // namespace t6::fuzz
