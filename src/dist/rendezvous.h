// How the ranks of a run find each other: a star of connections to rank 0, each opened by a handshake.
//
// Rank 0 listens; the others come, again and again until it is there. Each says protocol, nonce, rank and world, and
// gets the table of all ranks when the last one came. Who is of another run is turned away and told so; who is no rank
// at all is ignored.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dist/wire.h"

namespace t6::dist {

// Where a rank runs.
struct Seat {
  std::string host;
  std::string space;  // process_space()
  int64_t process = 0;
  std::string number;  // of its host, as rank 0 sees it
  int port = 0;        // where it answers other ranks once rank 0 is gone; 0 for rank 0 itself
};

struct Meeting {
  Ranks ranks = {};
  Address address = {};                       // of rank 0
  std::vector<std::string> other_hosts = {};  // further names of rank 0's host, tried in turn
  std::string address_from = {};              // which variables or flags named it, for messages; may be empty
  std::string nonce = {};                     // equal on all ranks of a run
  double timeout = 60;                        // seconds until missing ranks are given up
};

struct Star {
  std::vector<Seat> seats;  // by rank
  std::vector<Link> links;  // rank 0: one to each rank, but to itself; others: one, to rank 0
  Socket listener;          // of ranks other than 0, see Seat::port
};

// Waits for all ranks. `listener` may be rank 0's own, made before its port was told to the others; without it rank 0
// listens at meeting.address.
// Error(usage): the port is taken, or ranks that do not belong together (said by rank 0 where it knows, SaidElsewhere
// on the others). Error(peer): ranks are missing after the timeout, named by rank 0; or rank 0 was not found.
Star meet(const Meeting& meeting, Socket listener = {});

// What the frames of the control channel are.
enum class Kind : uint8_t {
  banner = 1,  // rank 0 to whoever connects
  hello,
  welcome,
  refuse,
  report,
  gather,
  gathered,
  why,
  end,
  goodbye,
  all_gone,
  probe,
  alive,
};
inline constexpr size_t kMaxGreeting = size_t{64} << 10;  // bytes of a frame from who has not said hello yet
inline void send(Link& link, Kind kind, std::string_view body) {
  link.send(static_cast<uint8_t>(kind), body);
}
inline bool is(const Frame& frame, Kind kind) {
  return frame.kind == static_cast<uint8_t>(kind);
}

// "rank 2", "ranks 0-3, 7".
std::string list_ranks(const std::vector<int>& ranks);
// "rank 2 on node7 (process 4711)".
std::string name_rank(int rank, const Seat& seat);

}  // namespace t6::dist
