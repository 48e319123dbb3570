#include "train/environment.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <hdf5.h>
#include <omp.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>

#include "base/build_info.h"

namespace t6::train {
namespace {

using Json = nlohmann::ordered_json;

// Instruction sets that change which kernels run; /proc/cpuinfo lists over a hundred more.
constexpr std::array<std::string_view, 27> kInstructionSets{
    "sse4_2",     "avx",        "f16c",         "fma",      "avx2",        "bmi2",        "avx512f",
    "avx512dq",   "avx512cd",   "avx512bw",     "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx_vnni", "amx_tile",    "amx_bf16",    "amx_int8",
    "amx_fp16",   "asimd",      "asimdhp",      "sve",      "bf16",        "i8mm"};

std::string_view trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

// First line of a file of /proc or /sys, or nothing.
std::optional<std::string> first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return std::string(trim(line));
}

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

Json describe_cpu() {
  Json cpu = Json::object();
  std::ifstream file("/proc/cpuinfo");
  std::set<std::string> cores;  // "socket/core"
  std::string socket;
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string_view key = trim(std::string_view(line).substr(0, colon));
    const std::string_view value = trim(std::string_view(line).substr(colon + 1));
    if (key == "model name" && !cpu.contains("model")) cpu["model"] = value;
    if (key == "physical id") socket = value;
    if (key == "core id") cores.insert(socket + "/" + std::string(value));
    if ((key == "flags" || key == "Features") && !cpu.contains("instruction_sets")) {
      std::istringstream words{std::string(value)};
      std::set<std::string> all{std::istream_iterator<std::string>(words), {}};
      cpu["instruction_sets"] = Json::array();
      for (const auto name : kInstructionSets) {
        if (all.count(std::string(name)) != 0) cpu["instruction_sets"].push_back(name);
      }
    }
  }
  if (!cores.empty()) cpu["cores"] = cores.size();
  cpu["threads"] = ::sysconf(_SC_NPROCESSORS_ONLN);
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) == 0) cpu["threads_allowed"] = CPU_COUNT(&allowed);
  return cpu;
}

// Bytes; "limit" is the control group's, where there is one.
Json describe_memory() {
  Json memory = Json::object();
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    const std::string_view text(line);
    for (const auto& [key, name] : {std::pair{"MemTotal:", "total"}, std::pair{"MemAvailable:", "available"}}) {
      if (!text.starts_with(key)) continue;
      if (const auto kib = number(trim(text.substr(std::string_view(key).size())))) memory[name] = *kib * 1024;
    }
  }
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const auto line = first_line(path);
    const auto limit = line ? number(*line) : std::nullopt;
    if (limit && memory.contains("total") && *limit < memory["total"].get<uint64_t>()) memory["limit"] = *limit;
  }
  return memory;
}

Json describe_libraries(const std::vector<std::pair<std::string, std::string>>& extra) {
  Json libraries = Json::object();
  libraries["glibc"] = ::gnu_get_libc_version();
  unsigned major = 0, minor = 0, release = 0;
  if (::H5get_libversion(&major, &minor, &release) >= 0)
    libraries["hdf5"] = fmt::format("{}.{}.{}", major, minor, release);
  libraries["zlib"] = ::zlibVersion();
  libraries["zstd"] = ::ZSTD_versionString();
  libraries["fmt"] = fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100);
  libraries["nlohmann_json"] =
      fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH);
  libraries["openmp"] = std::to_string(_OPENMP);
  for (const auto& [name, version] : extra) libraries[name] = version;
  return libraries;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now));
}

}  // namespace

Json describe_environment(std::span<const std::string> arguments,
                          const std::vector<std::pair<std::string, std::string>>& libraries) {
  Json environment;
  environment["t6"] = {{"version", build_info::version()},       {"commit", build_info::commit()},
                       {"compiler", build_info::compiler()},     {"flags", build_info::flags()},
                       {"build_type", build_info::build_type()}, {"cuda", build_info::has_cuda()}};
  environment["cpu"] = describe_cpu();
  environment["memory"] = describe_memory();
  environment["libraries"] = describe_libraries(libraries);

  Json threads = {{"omp_max_threads", ::omp_get_max_threads()}};
  for (const char* name : {"OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_DYNAMIC"}) {
    if (const char* value = std::getenv(name)) threads[name] = value;
  }
  environment["threads"] = threads;

  struct utsname system {};
  if (::uname(&system) == 0) {
    environment["host"] = system.nodename;
    environment["system"] = fmt::format("{} {} {}", system.sysname, system.release, system.machine);
  }
  environment["command"] = std::vector<std::string>(arguments.begin(), arguments.end());
  std::error_code error;
  const auto folder = std::filesystem::current_path(error);
  if (!error) environment["folder"] = folder.string();
  environment["process"] = ::getpid();
  environment["date"] = utc_now();
  return environment;
}

Json lasting_environment(const Json& environment) {
  Json lasting = environment;
  for (const char* key : {"command", "folder", "process", "date", "peak", "matmul_algorithms"}) lasting.erase(key);
  if (lasting.contains("memory") && lasting["memory"].is_object()) lasting["memory"].erase("available");
  return lasting;
}

}  // namespace t6::train
