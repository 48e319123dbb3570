// Errors with the exit code they lead to, and the checks that raise them.
//
// A user's mistake (a file, a config, an argument) is `fail(ExitCode::..., "expected ..., got ...; do ...")`. A
// caller's mistake inside the program is T6_CHECK. Nothing but main catches to exit.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace t6 {

// Exit codes of the program; 128 + n is "saved after signal n" and has no name here.
enum class ExitCode : int {
  ok = 0,
  usage = 2,       // command line or config
  data = 3,        // corpus, tokenizer, token shards
  checkpoint = 4,  // missing, damaged or unfit checkpoint; run folder in use
  numeric = 5,     // non-finite loss, divergence, silent corruption
  io = 6,          // input/output, including a full disk; out of memory
  peer = 7,        // another rank failed or hangs
  internal = 70,   // a bug in this program
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// An error of many ranks that another rank says: main ends the program with its code and without a word.
class SaidElsewhere : public Error {
 public:
  using Error::Error;
};

// Throws Error(code) with the formatted message.
template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace t6

// A caller's contract: throws Error(internal) with "[op] expected ..., got ..." style messages.
#define T6_CHECK(condition, ...)                                         \
  do {                                                                   \
    if (!(condition)) ::t6::fail(::t6::ExitCode::internal, __VA_ARGS__); \
  } while (false)
