// How the ranks of a save or a load come to one outcome: each does its share, keeps what went wrong, and tells all.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"

namespace t6::checkpoint {

// What is wrong with a checkpoint; decides between falling back and an error.
struct Damage {
  std::string reason;
};

// What one rank's share came to.
struct Outcome {
  enum class Kind : uint8_t { done, damage, error };
  Kind kind = Kind::done;
  ExitCode code = ExitCode::ok;  // of an error
  std::string text;              // what is to be told, or the reason

  bool failed() const { return kind != Kind::done; }
};

// The exception being handled.
Outcome current_failure();

// Runs f, which returns the text to tell. A single rank's exceptions pass: there is nobody to tell.
template <class F>
Outcome outcome_of(const Peers& peers, F&& f) {
  if (peers.world == 1) return {Outcome::Kind::done, ExitCode::ok, f()};
  try {
    return {Outcome::Kind::done, ExitCode::ok, f()};
  } catch (...) {
    return current_failure();
  }
}

// Tells all ranks; returns what each rank came to, in their order.
std::vector<Outcome> share(const Peers& peers, const Outcome& mine);
// The texts of every rank as they are.
std::vector<std::string> gather(const Peers& peers, std::string_view text);

// Throws the Damage or Error of `outcome`.
[[noreturn]] void rethrow(const Outcome& outcome);
// The failure of the lowest rank that had one, which is named when there are several; otherwise one that is done.
Outcome first_failure(const std::vector<Outcome>& outcomes);
// share, and the same exception on all ranks when one failed.
std::vector<Outcome> agree(const Peers& peers, const Outcome& mine);

}  // namespace t6::checkpoint
