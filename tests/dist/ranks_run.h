// Runs a program on several ranks by mpirun, with a time limit after which every process of it is ended.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace t6::test {

struct RanksOutcome {
  int code = -1;      // mpirun's; 128 + n when signal n ended it
  bool late = false;  // the time limit ended it
  std::string text;   // what all ranks wrote
  double seconds = 0;

  // The rest of the line from the first `part` on; empty: it is nowhere.
  std::string line(const std::string& part) const {
    const size_t begin = text.find(part);
    return begin == std::string::npos ? "" : text.substr(begin, text.find('\n', begin) - begin);
  }
};

// The path of mpirun; empty: there is none.
inline std::string mpirun() {
  const char* path = std::getenv("PATH");
  const std::string folders = path != nullptr ? path : "";
  for (size_t begin = 0; begin <= folders.size();) {
    const size_t end = std::min(folders.find(':', begin), folders.size());
    const std::string file = folders.substr(begin, end - begin) + "/mpirun";
    if (::access(file.c_str(), X_OK) == 0) return file;
    begin = end + 1;
  }
  return {};
}

// How one rank ended, which mpirun's exit code does not tell.
struct RankEnd {
  int code = -1;    // 128 + n when signal n ended it; -1: SIGKILL came before it was recorded
  std::string err;  // its standard error

  // By itself: with this code, or so that mpirun's SIGKILL came between its end and the record.
  bool ended_with(int wanted) const { return code == wanted || code == -1; }
};

// The command of a rank whose end is to be recorded below `folder`, for rank_ends(). mpirun signals the whole process
// group: the rank gets SIGTERM as it would alone, the shell around it stays to record that. SIGKILL, which follows
// within milliseconds, ends both.
inline std::vector<std::string> recorded(const std::filesystem::path& folder, const std::vector<std::string>& command) {
  std::vector<std::string> words = {"/bin/sh", "-c",
                                    "trap : TERM; of=\"$1\"/rank.${OMPI_COMM_WORLD_RANK:-$RANK}; shift; "
                                    "\"$@\" 2>\"$of.err\"; code=$?; echo $code >\"$of.code\"; exit $code",
                                    "sh", folder.string()};
  words.insert(words.end(), command.begin(), command.end());
  return words;
}

// Of that many ranks. The records are removed: the next run below the folder has its own.
inline std::vector<RankEnd> rank_ends(const std::filesystem::path& folder, int world) {
  std::vector<RankEnd> ends(static_cast<size_t>(world));
  for (int rank = 0; rank < world; ++rank) {
    RankEnd& end = ends[static_cast<size_t>(rank)];
    const std::filesystem::path of = folder / ("rank." + std::to_string(rank));
    std::ifstream(of.string() + ".code") >> end.code;
    std::ifstream err(of.string() + ".err", std::ios::binary);
    end.err = std::string(std::istreambuf_iterator<char>(err), {});
    for (const char* what : {".code", ".err"}) std::filesystem::remove(of.string() + what);
  }
  return ends;
}

// `command` on `world` ranks; `settings` are NAME=VALUE for its environment.
inline RanksOutcome run_ranks(int world, const std::vector<std::string>& command,
                              const std::vector<std::string>& settings = {}, int limit_seconds = 60) {
  using Clock = std::chrono::steady_clock;
#if defined(__SANITIZE_ADDRESS__)
  limit_seconds *= 4;
#endif
  std::vector<std::string> words = {mpirun(),    "-n",   std::to_string(world), "--oversubscribe",
                                    "--bind-to", "none", "--allow-run-as-root", "--quiet"};
  for (const std::string& setting : settings) words.insert(words.end(), {"-x", setting});
  words.insert(words.end(), command.begin(), command.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  RanksOutcome outcome;
  int pipe_ends[2];
  if (::pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) != 0) return outcome;
  const auto start = Clock::now();
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // mpirun ends its ranks
    ::setpgid(0, 0);
    const int nothing = ::open("/dev/null", O_RDONLY);
    ::dup2(nothing, 0);
    ::fcntl(pipe_ends[1], F_SETFL, 0);
    ::dup2(pipe_ends[1], 1);
    ::dup2(pipe_ends[1], 2);
    ::setenv("OMP_WAIT_POLICY", "passive", 1);
    ::execv(argv[0], argv.data());
    ::_exit(99);
  }
  ::close(pipe_ends[1]);
  int status = 0;
  double ask_at = limit_seconds, kill_at = limit_seconds + 5;
  for (bool ended = false; !ended;) {
    ended = ::waitpid(child, &status, WNOHANG) == child;
    char text[4096];
    for (ssize_t n = 0; (n = ::read(pipe_ends[0], text, sizeof text)) > 0;) outcome.text.append(text, n);
    if (ended) break;
    outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (outcome.seconds > ask_at) {
      outcome.late = true;
      ::kill(child, SIGTERM);
      ask_at = 1e9;
    }
    if (outcome.seconds > kill_at) {
      ::kill(-child, SIGKILL);
      kill_at = 1e9;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ::close(pipe_ends[0]);
  outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

}  // namespace t6::test
