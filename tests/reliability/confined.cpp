#include "confined.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <system_error>
#include <thread>

#include "data/shard_files.h"
#include "run_support.h"

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

struct Call {
  const char* name;
  long number;
};
constexpr std::array<Call, 5> kRefused{{{"socket", SYS_socket},
                                        {"connect", SYS_connect},
                                        {"execve", SYS_execve},
                                        {"execveat", SYS_execveat},
                                        {"io_uring_setup", SYS_io_uring_setup}}};

// From here on those calls of this thread and of all processes it starts wait for an answer through the file that is
// given; -1 and errno when the kernel has none.
int listen_to_calls() {
  std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const Call& call : kRefused) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call.number), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog installed{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &installed));
}

// Refuses and notes calls, but the execve that starts the program itself, until no process is left that could make one,
// or `enough` says so while none waits.
void refuse_calls(int listener, bool& started, std::vector<std::string>& refused, const std::function<bool()>& enough) {
  while (true) {
    pollfd waiting{listener, POLLIN, 0};
    ::poll(&waiting, 1, 10);
    if ((waiting.revents & POLLIN) == 0) {
      if ((waiting.revents & POLLHUP) != 0 || enough()) return;
      continue;
    }
    seccomp_notif call{};
    if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) continue;  // its process was killed
    seccomp_notif_resp answer{call.id, 0, -EPERM, 0};
    if (!started && call.data.nr == SYS_execve) {
      started = true;
      answer = {call.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    } else {
      const auto same = [&](const Call& each) { return each.number == call.data.nr; };
      refused.emplace_back(std::find_if(kRefused.begin(), kRefused.end(), same)->name);
    }
    ::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }
}

}  // namespace

bool kernel_has_landlock() {
  return ::syscall(kCreateRuleset, nullptr, 0, 1) > 0;
}

ConfinedOutcome run_confined(const char* program, const std::vector<std::string>& arguments, const fs::path& folder,
                             const fs::path& writable, const Environment& environment) {
  const double began = seconds_now();
  int listener = -1, error = 0;
  pid_t child = 0;
  // What a thread may not do its children may not, and this process goes on free.
  std::thread([&] {
    listener = listen_to_calls();
    error = errno;
    if (listener < 0) return;
    child = start_program(program, arguments, folder, environment, "/dev/null", [&] { restrict_writes(writable); });
  }).join();
  if (listener < 0) throw std::system_error(error, std::generic_category(), "seccomp");
  bool started = false;
  std::vector<std::string> refused;
  refuse_calls(listener, started, refused, [&] { return has_ended(child); });
  ConfinedOutcome outcome{finish_program(child, folder, began), {}};
  // Those that it started and did not wait for.
  refuse_calls(listener, started, refused, [late = seconds_now() + 5] { return seconds_now() > late; });
  ::close(listener);
  outcome.refused = refused;
  return outcome;
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
