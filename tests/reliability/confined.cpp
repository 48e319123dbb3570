#include "confined.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <array>
#include <cstddef>

#include "data/shard_files.h"

namespace t6::test {
namespace {

namespace fs = std::filesystem;

// linux/landlock.h is younger than some systems this is built on; the interface is fixed.
constexpr long kCreateRuleset = 444, kAddRule = 445, kRestrictSelf = 446;
struct Ruleset {
  uint64_t handled;
};
struct __attribute__((packed)) PathBeneath {
  uint64_t allowed;
  int32_t parent;
};
constexpr uint64_t kWriteFile = 1 << 1, kRemoveFolder = 1 << 4, kRemoveFile = 1 << 5, kMakeAny = 0x7F << 6;
constexpr uint64_t kWrites = kWriteFile | kRemoveFolder | kRemoveFile | kMakeAny;

bool restrict_writes(const fs::path& writable) {
  const Ruleset handled{kWrites};
  const int rules = static_cast<int>(::syscall(kCreateRuleset, &handled, sizeof(handled), 0));
  if (rules < 0) return false;
  for (const char* path : {writable.c_str(), "/dev"}) {
    const int parent = ::open(path, O_PATH | O_CLOEXEC);
    const PathBeneath rule{kWrites, parent};
    if (parent < 0 || ::syscall(kAddRule, rules, 1, &rule, 0) != 0) ::_exit(97);
    ::close(parent);
  }
  if (::syscall(kRestrictSelf, rules, 0) != 0) ::_exit(97);
  ::close(rules);
  return true;
}

// execve is known by the address of the path it is given: after it that memory is gone.
bool restrict_calls(const char* program) {
  const auto address = reinterpret_cast<uint64_t>(program);
  std::vector<sock_filter> filter;
  const auto load = [&](size_t offset) {
    filter.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
  };
  load(offsetof(seccomp_data, nr));
  for (const long call : {SYS_socket, SYS_connect, SYS_execveat, SYS_io_uring_setup}) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  }
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 5));
  load(offsetof(seccomp_data, args));
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(address), 0, 2));
  load(offsetof(seccomp_data, args) + 4);
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(address >> 32), 1, 0));
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog installed{static_cast<unsigned short>(filter.size()), filter.data()};
  return ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &installed) == 0;
}

}  // namespace

bool kernel_has_landlock() {
  return ::syscall(kCreateRuleset, nullptr, 0, 1) > 0;
}

pid_t start_confined(const char* program, const std::vector<std::string>& arguments, const fs::path& folder,
                     const fs::path& writable, const Environment& environment) {
  return start_program(program, arguments, folder, environment, "/dev/null", [&](const char* path) {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) ::_exit(97);
    restrict_writes(writable);
    if (!restrict_calls(path)) ::_exit(97);
  });
}

std::map<std::string, std::string> tree_of(const fs::path& folder) {
  std::map<std::string, std::string> tree;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    struct stat status {};
    if (::lstat(entry.path().c_str(), &status) != 0) continue;
    std::string about = std::to_string(status.st_ino) + " " + std::to_string(status.st_size) + " " +
                        std::to_string(status.st_mtim.tv_sec) + "." + std::to_string(status.st_mtim.tv_nsec) + " ";
    if (entry.is_symlink()) {
      about += fs::read_symlink(entry.path()).string();
    } else if (entry.is_regular_file()) {
      about += data::testing::read_file(entry.path());
    }
    tree[fs::relative(entry.path(), folder).string()] = about;
  }
  return tree;
}

}  // namespace t6::test
