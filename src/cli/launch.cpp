// t6 launch: starts the ranks of a run on this host, passes signals on, and leaves none behind.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "base/config_tree.h"
#include "base/error.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/config_arguments.h"
#include "cli/help.h"
#include "cli/launch.h"
#include "dist/mpi.h"
#include "dist/wire.h"
#include "tensor/gpu.h"

namespace t6::cli {
namespace {

enum class By { automatic, mpi, variables };

struct Options {
  int64_t nproc = 0;
  By by = By::automatic;
  std::vector<std::string> words;  // for the help; what was given is context->launched
  const Context* context = nullptr;
  CLI::App* root = nullptr;
};

// What is left of a run when a rank has failed: first the others end by themselves, then they are asked, then made to.
constexpr double kGraceSeconds = 10, kAskedSeconds = 5;
constexpr std::array kSignals{SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP};
std::atomic<int> pending_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void on_signal_for_ranks(int number) {
  pending_signal = number;
}

std::string find_mpirun() {
  std::istringstream folders(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = folder + "/mpirun";
    if (!folder.empty() && ::access(file.c_str(), X_OK) == 0) return file;
  }
  return {};
}

bool starts_with_any(std::string_view name, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

// This process's environment without what another launcher said of ranks, and with `added` (NAME=VALUE).
std::vector<std::string> environment_with(const std::vector<std::string>& added) {
  constexpr std::array<std::string_view, 7> kOfRanks{"RANK",        "WORLD_SIZE",  "LOCAL_RANK",  "LOCAL_WORLD_SIZE",
                                                     "MASTER_ADDR", "MASTER_PORT", "T6_RUN_NONCE"};
  std::vector<std::string> variables;
  for (char** at = environ; *at != nullptr; ++at) {
    const std::string_view variable = *at;
    const std::string_view name = variable.substr(0, variable.find('='));
    // In an allocation of Slurm mpirun would start ranks on its other hosts.
    if (starts_with_any(name, {"SLURM_", "PMI_", "PMIX_", "OMPI_COMM_WORLD_", "TORCHELASTIC_"})) continue;
    if (std::find(kOfRanks.begin(), kOfRanks.end(), name) != kOfRanks.end()) continue;
    variables.emplace_back(variable);
  }
  for (const std::string& variable : added) {
    const std::string name = variable.substr(0, variable.find('=') + 1);
    std::erase_if(variables, [&](const std::string& each) { return each.starts_with(name); });
    variables.push_back(variable);
  }
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> all;
  for (std::string& word : words) all.push_back(word.data());
  all.push_back(nullptr);
  return all;
}

// As under nohup: whoever started this process wants that signal to end nothing.
bool is_ignored(int number) {
  struct sigaction now {};
  return ::sigaction(number, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

pid_t start(std::vector<std::string> words, std::vector<std::string> variables, bool own_group) {
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);
  // Made here: behind the fork nothing may wait for a lock that another thread had.
  std::string trouble = fmt::format("t6 launch: cannot start {}: ", words.front());
  char newline = '\n';
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) fail(ExitCode::io, "cannot start a process: {}", std::strerror(errno));
  if (child > 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);  // it died before that
  // A signal from the terminal comes to the launcher alone, which passes it on.
  if (own_group) ::setpgid(0, 0);
  if (const int nothing = ::open("/dev/null", O_RDONLY); nothing > 0) {
    ::dup2(nothing, 0);
    ::close(nothing);
  }
  for (const int number : kSignals) {
    if (!is_ignored(number)) ::signal(number, SIG_DFL);
  }
  ::execve(argv[0], argv.data(), envp.data());
  char* reason = std::strerror(errno);
  const std::array<iovec, 3> parts{{{trouble.data(), trouble.size()}, {reason, std::strlen(reason)}, {&newline, 1}}};
  (void)!::writev(STDERR_FILENO, parts.data(), parts.size());
  ::_exit(127);
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    pid_t process = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), process);
    if (bad != std::errc() || end != name.data() + name.size()) continue;
    std::string stat;
    std::getline(std::ifstream(entry.path() / "stat"), stat);
    // pid (name) state parent: the name may hold anything.
    const size_t after = stat.rfind(')');
    if (after == std::string::npos || after + 4 > stat.size()) continue;
    if (std::atoi(stat.c_str() + after + 4) == parent) children.push_back(process);
  }
  return children;
}

int code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The exit code of a process that such a signal ended from outside or by a crash; a run that was asked to stop by a
// signal saves, and exits with the code of one of the others.
bool tells_of_death(int code) {
  constexpr std::array kDeadly{SIGKILL, SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL};
  return std::find(kDeadly.begin(), kDeadly.end(), code - 128) != kDeadly.end();
}

// The exit code of a launch that ended with `code`: that of a rank, but for a rank that was killed or crashed, which is
// said. `rank` -1: another program started them, which tells the signal alone; the ranks themselves say who died.
int code_of_ranks(int code, int rank) {
  if (!tells_of_death(code)) return code;
  fmt::print(stderr, "t6 launch: {} was ended by signal {} ({})\n", rank < 0 ? "a rank" : fmt::format("rank {}", rank),
             code - 128, ::strsignal(code - 128));
  return static_cast<int>(ExitCode::peer);
}

// Takes signals from here on, so that none is lost between two starts; those that are ignored stay so, here and in the
// ranks.
void take_signals() {
  struct sigaction action {};
  action.sa_handler = &on_signal_for_ranks;
  sigemptyset(&action.sa_mask);
  for (const int number : kSignals) {
    if (!is_ignored(number)) ::sigaction(number, &action, nullptr);
  }
}

struct End {
  int code = 0;       // the first that is not 0
  pid_t process = 0;  // whose it is
};

// Waits for the processes. `reach` gives the ranks that a signal goes to.
template <class Reach>
End wait_for(std::vector<pid_t> processes, const Reach& reach) {
  End first;
  double failed_at = 0;
  bool asked = false, made = false;
  while (!processes.empty()) {
    if (const int number = pending_signal.exchange(0); number != 0) {
      for (const pid_t rank : reach()) ::kill(rank, number == SIGHUP ? SIGTERM : number);
    }
    int status = 0;
    pid_t ended = 0;
    while ((ended = ::waitpid(-1, &status, WNOHANG)) > 0) {
      std::erase(processes, ended);
      if (first.code == 0) first = {code_of(status), ended};
      if (first.code != 0 && failed_at == 0) failed_at = steady_seconds();
    }
    if (ended < 0 && errno == ECHILD) break;
    const double past = failed_at > 0 ? steady_seconds() - failed_at : 0;
    if (past > kGraceSeconds && !asked) {
      asked = true;
      for (const pid_t process : reach()) ::kill(process, SIGTERM);
    }
    if (past > kGraceSeconds + kAskedSeconds && !made) {
      made = true;
      for (const pid_t process : reach()) ::kill(process, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return first;
}

int by_mpirun(const std::string& mpirun, const Options& options, const std::vector<std::string>& words,
              std::vector<std::string> added) {
  // As variables: they hold for Open MPI, and other MPIs pass them over.
  added.insert(added.end(),
               {"OMPI_MCA_rmaps_base_oversubscribe=1", "OMPI_MCA_hwloc_base_binding_policy=none",
                "OMPI_MCA_orte_execute_quiet=1", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"});
  std::vector<std::string> line{mpirun, "-n", std::to_string(options.nproc)};
  line.insert(line.end(), words.begin(), words.end());
  take_signals();
  const pid_t child = start(line, environment_with(added), true);
  // mpirun would answer a signal by ending the ranks before they have saved: they get it themselves.
  const auto reach = [child] {
    std::vector<pid_t> ranks = children_of(child);
    return ranks.empty() ? std::vector<pid_t>{child} : ranks;
  };
  return code_of_ranks(wait_for({child}, reach).code, -1);
}

int by_variables(const Options& options, const std::vector<std::string>& words, const std::vector<std::string>& added) {
  const int port = dist::listen_at({"127.0.0.1", 0}).port();
  std::random_device device;
  const std::string nonce = fmt::format("{:08x}{:08x}{:08x}", device(), device(), device());
  const std::string world = std::to_string(options.nproc);
  take_signals();
  std::vector<pid_t> ranks;
  for (int64_t rank = 0; rank < options.nproc; ++rank) {
    std::vector<std::string> variables = added;
    const std::string number = std::to_string(rank);
    variables.insert(variables.end(),
                     {"RANK=" + number, "WORLD_SIZE=" + world, "LOCAL_RANK=" + number, "LOCAL_WORLD_SIZE=" + world,
                      "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + std::to_string(port), "T6_RUN_NONCE=" + nonce});
    ranks.push_back(start(words, environment_with(variables), true));
  }
  const End end = wait_for(ranks, [] { return children_of(::getpid()); });
  const auto at = std::find(ranks.begin(), ranks.end(), end.process);
  return code_of_ranks(end.code, at == ranks.end() ? -1 : static_cast<int>(at - ranks.begin()));
}

// Each rank does its part in those commands that can be told which rank they are; any other would be done once a rank.
void require_divisible(const Options& options) {
  const std::vector<std::string> all = subcommand_names(*options.root);
  std::vector<std::string> dividing;
  std::copy_if(all.begin(), all.end(), std::back_inserter(dividing), [&](const std::string& name) {
    return options.root->get_subcommand(name)->get_option_no_throw("--rank") != nullptr;
  });
  const std::vector<std::string>& words = options.context->launched;
  if (words.empty()) {
    fail(ExitCode::usage,
         "launch: expected a command of t6 to start, got none; for example t6 launch --nproc {} train "
         "--config configs/demo_tpa.yaml train.micro_batch=4",
         options.nproc);
  }
  const auto is_in = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), words[0]) != names.end();
  };
  if (is_in(dividing)) return;
  const std::string known = fmt::format("{}", fmt::join(dividing, " and "));
  if (is_in(all)) {
    fail(ExitCode::usage,
         "launch: the work of `t6 {0}` is not divided among ranks: each would do all of it; run it without launch. "
         "Commands that divide their work: {1}",
         words[0], known);
  }
  const std::string close = nearest(words[0], all);
  fail(ExitCode::usage, "launch: expected a command that divides its work among ranks, {}, got {}{}", known,
       config::quote(words[0]), close.empty() ? "" : "; did you mean " + close + "?");
}

// Said once, before there are ranks that would each say it. Asked for help it gives that.
void require_understood(const Options& options) {
  std::vector<std::string> words{"t6"};
  words.insert(words.end(), options.context->launched.begin(), options.context->launched.end());
  parse(*options.root, words);
}

int run(const Options& options) {
  require_divisible(options);
  require_understood(options);
  std::vector<std::string> words{std::filesystem::read_symlink("/proc/self/exe").string()};
  words.insert(words.end(), options.context->launched.begin(), options.context->launched.end());

  By by = options.by;
  const bool on_gpus = gpu::count() > 0 && !computes_on_cpu(options.context->launched);
  if (by == By::automatic) by = on_gpus || options.nproc == 1 ? By::variables : By::mpi;
  std::vector<std::string> added;
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    // Each rank its share of the processor.
    const auto cores = static_cast<int64_t>(std::thread::hardware_concurrency());
    added.push_back(fmt::format("OMP_NUM_THREADS={}", std::max<int64_t>(1, cores / options.nproc)));
  }
  // Threads of OpenMP that wait at a full processor would take it from the other ranks, and from MPI's.
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) added.emplace_back("OMP_WAIT_POLICY=passive");
  if (by == By::variables) return by_variables(options, words, added);
  const std::string mpirun = find_mpirun();
  if (!dist::has_mpi() || mpirun.empty()) {
    fail(ExitCode::usage, "launch: ranks on CPUs talk by MPI, and {}; install openmpi-bin and libopenmpi-dev{}",
         dist::has_mpi() ? "there is no mpirun in PATH" : "this build of t6 is without",
         dist::has_mpi() ? "" : ", then build again");
  }
  return by_mpirun(mpirun, options, words, added);
}

// Where the config that the words of `t6 train` name computes; nothing when it cannot be read: the ranks will say why.
std::optional<DeviceChoice> device_of_config(std::vector<std::string> words) {
  CLI::App train;
  ConfigArguments arguments;
  add_config_arguments(&train, arguments);
  train.allow_extras();
  words.erase(words.begin());
  std::reverse(words.begin(), words.end());  // as CLI11 takes them
  try {
    train.parse(words);
    return arguments.load().run.device;
  } catch (const CLI::ParseError&) {
    return std::nullopt;
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

bool computes_on_cpu(const std::vector<std::string>& words) {
  if (!words.empty() && words.front() == "train") {
    if (const auto device = device_of_config(words)) return *device == DeviceChoice::cpu;
  }
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "run.device=cpu" || words[i] == "--device=cpu") return true;
    if (words[i] == "--device" && i + 1 < words.size() && words[i + 1] == "cpu") return true;
  }
  return false;
}

void add_launch(CLI::App& root, Context& context) {
  CLI::App* command = add_command(
      root, "launch", "start train or eval on several ranks of this host: one for each GPU, or on CPUs",
      "  t6 launch --nproc 2 train --config configs/demo_tpa.yaml train.micro_batch=4 run.device=cpu\n"
      "  t6 launch --nproc 4 -- train --config configs/t6_tpa_small.yaml\n"
      "Signals go to all ranks: one SIGTERM and the run saves. The exit code is that of the first rank that\n"
      "did not end with 0, and 7 where one was killed or crashed. Several hosts: scripts/launch and "
      "docs/distributed.md.");
  auto options = options_for<Options>(command, context, &run);
  options->context = &context;
  options->root = &root;
  command->add_option("--nproc", options->nproc, "ranks to start")
      ->type_name("N")
      ->required()
      ->transform(integer_between(1, 4096));
  command
      ->add_option("--by", options->by,
                   "mpi: mpirun starts them; variables: this program, with torchrun's variables (GPUs only); auto: "
                   "variables where GPUs are used, otherwise mpi")
      ->type_name("HOW")
      ->transform(one_of({"auto", "mpi", "variables"}));
  command->add_option("COMMAND", options->words,
                      "train or eval, which divide their work among ranks, and all that follows it");
}

std::vector<std::string> take_launched_command(std::vector<std::string>& arguments) {
  if (arguments.size() < 2 || arguments[1] != "launch") return {};
  size_t at = 2;
  while (at < arguments.size()) {
    const std::string& word = arguments[at];
    if (word == "--" || !word.starts_with('-')) break;
    at += word == "--nproc" || word == "--by" ? 2 : 1;
  }
  at = std::min(at, arguments.size());
  const bool marked = at < arguments.size() && arguments[at] == "--";
  std::vector<std::string> rest(arguments.begin() + static_cast<int64_t>(at + (marked ? 1 : 0)), arguments.end());
  arguments.resize(at);
  return rest;
}

}  // namespace t6::cli
