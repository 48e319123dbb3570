#include "dist/rendezvous.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <thread>

#include "base/clock.h"
#include "base/error.h"

namespace t6::dist {
namespace {

constexpr int64_t kProtocol = 2;
constexpr double kGreetingSeconds = 5;  // to say who one is
constexpr double kOtherRunSeconds = 2;  // for another run to leave the port
constexpr size_t kMaxStrangers = 256;   // who are connected and have not said it yet

struct Hello {
  int64_t protocol = 0;
  std::string nonce;
  int64_t rank = 0, world = 0;
  Seat seat;
};

std::string to_text(const Hello& hello) {
  // Protocol, nonce and rank come first in every version.
  Writer body;
  body.number(hello.protocol).text(hello.nonce).number(hello.rank).number(hello.world);
  body.text(hello.seat.host).text(hello.seat.space).number(hello.seat.process).number(hello.seat.port);
  return body.take();
}

std::optional<Hello> read_hello(std::string_view bytes) {
  Reader body(bytes);
  Hello hello;
  hello.protocol = body.number();
  hello.nonce = body.text();
  hello.rank = body.number();
  if (body.good() && hello.protocol != kProtocol) return hello;
  hello.world = body.number();
  hello.seat.host = body.text().substr(0, 256);
  hello.seat.space = body.text().substr(0, 128);
  hello.seat.process = body.number();
  hello.seat.port = static_cast<int>(body.number());
  if (!body.done() || hello.seat.port < 0 || hello.seat.port > 65535) return std::nullopt;
  return hello;
}

Seat own_seat(int port) {
  return {host_name(), process_space(), ::getpid(), "", port};
}

int poll_timeout(double until) {
  return static_cast<int>(std::clamp(std::ceil((until - steady_seconds()) * 1000), 0.0, 1000.0));
}

class Host {
 public:
  Host(const Meeting& meeting, Socket listener)
      : meeting_(meeting), listener_(std::move(listener)), deadline_(steady_seconds() + meeting.timeout) {
    star_.seats.resize(static_cast<size_t>(meeting.ranks.world));
    star_.links.resize(static_cast<size_t>(meeting.ranks.world));
    star_.seats[0] = own_seat(0);
    star_.seats[0].number = is_loopback(meeting.address.host) ? "127.0.0.1" : meeting.address.host;
  }

  Star wait() {
    while (!missing().empty()) {
      if (steady_seconds() > deadline_) give_up();
      turn();
    }
    Writer table;
    for (const Seat& seat : star_.seats) {
      table.text(seat.host).text(seat.space).number(seat.process).text(seat.number).number(seat.port);
    }
    const std::string body = table.take();
    for (Link& link : star_.links) {
      if (link.open()) send(link, Kind::welcome, body);
    }
    return std::move(star_);
  }

 private:
  struct Stranger {
    Link link;
    double until;
  };

  std::vector<int> missing() const {
    std::vector<int> ranks;
    for (int rank = 1; rank < meeting_.ranks.world; ++rank) {
      if (!star_.links[static_cast<size_t>(rank)].open()) ranks.push_back(rank);
    }
    return ranks;
  }

  // One round of what has come.
  void turn() {
    std::vector<pollfd> waited{{listener_.descriptor(), POLLIN, 0}};
    double until = deadline_;
    for (const Stranger& stranger : strangers_) {
      waited.push_back({stranger.link.descriptor(), POLLIN, 0});
      until = std::min(until, stranger.until);
    }
    for (const Link& link : star_.links) {
      if (link.open()) waited.push_back({link.descriptor(), POLLIN, 0});
    }
    ::poll(waited.data(), waited.size(), poll_timeout(until));

    for (Stranger& stranger : strangers_) greet(stranger);
    std::erase_if(strangers_, [](const Stranger& s) { return !s.link.open() || steady_seconds() > s.until; });
    for (Socket socket = accept_from(listener_); socket.open(); socket = accept_from(listener_)) {
      // The oldest of too many is the least likely to be a rank.
      if (strangers_.size() >= kMaxStrangers) strangers_.erase(strangers_.begin());
      strangers_.push_back({Link(std::move(socket), kMaxGreeting), steady_seconds() + kGreetingSeconds});
      send(strangers_.back().link, Kind::banner, Writer().number(kProtocol).take());
    }
    // A rank that goes before the others came may come again.
    for (Link& link : star_.links) {
      if (link.open() && !link.read()) link.close();
    }
  }

  void greet(Stranger& stranger) {
    const bool goes_on = stranger.link.read();
    const std::optional<Frame> frame = stranger.link.next();
    if (frame) {
      const std::optional<Hello> hello = is(*frame, Kind::hello) ? read_hello(frame->body) : std::nullopt;
      if (hello) return seat(stranger.link, *hello);
      stranger.link.close();
    } else if (!goes_on) {
      stranger.link.close();
    }
  }

  void seat(Link& link, const Hello& hello) {
    const int world = meeting_.ranks.world;
    if (hello.nonce != meeting_.nonce) {
      ++others_;
      refuse(link, false, ExitCode::usage,
             fmt::format("at {} rank 0 of another run listens; give each run a port of its own{}",
                         meeting_.address.text(), from()));
      link.close();
      return;
    }
    if (hello.protocol != kProtocol) {
      end(link, fmt::format("rank {} speaks version {} of the control channel and rank 0 version {}: all ranks must "
                            "run the same build of t6",
                            hello.rank, hello.protocol, kProtocol));
    }
    if (hello.world != world) {
      end(link,
          fmt::format("{} was started for {} ranks, rank 0 on {} for {}; give all the same number",
                      name_rank(static_cast<int>(hello.rank), hello.seat), hello.world, star_.seats[0].host, world));
    }
    if (hello.rank < 0 || hello.rank >= world) {
      end(link, fmt::format("a process on {} says it is rank {} of {}", hello.seat.host, hello.rank, world));
    }
    const auto rank = static_cast<size_t>(hello.rank);
    if (rank == 0 || star_.links[rank].open()) {
      end(link,
          fmt::format("two processes say they are rank {}: process {} on {} and process {} on {}; give each a "
                      "rank of its own",
                      rank, star_.seats[rank].process, star_.seats[rank].host, hello.seat.process, hello.seat.host));
    }
    star_.seats[rank] = hello.seat;
    star_.seats[rank].number = link.socket().peer();
    star_.links[rank] = std::move(link);
  }

  static void refuse(Link& link, bool said, ExitCode code, const std::string& text) {
    send(link, Kind::refuse, Writer().number(said ? 1 : 0).number(static_cast<int>(code)).text(text).take());
    link.drain(0.5);
  }

  void refuse_all(ExitCode code, const std::string& text) {
    for (Link& link : star_.links) {
      if (link.open()) refuse(link, true, code, text);
    }
  }

  // The run cannot begin: rank 0 says why, all end.
  [[noreturn]] void end(Link& link, const std::string& text) {
    refuse(link, true, ExitCode::usage, text);
    refuse_all(ExitCode::usage, text);
    throw Error(ExitCode::usage, text);
  }

  [[noreturn]] void give_up() {
    std::map<std::string, std::vector<int>> here;
    for (int rank = 0; rank < meeting_.ranks.world; ++rank) {
      const auto i = static_cast<size_t>(rank);
      if (rank == 0 || star_.links[i].open()) here[star_.seats[i].host].push_back(rank);
    }
    std::string seen;
    for (const auto& [host, ranks] : here) {
      seen += fmt::format("{}{} on {}", seen.empty() ? "" : ", ", list_ranks(ranks), host);
    }
    const std::vector<int> absent = missing();
    std::string gone;
    for (const int rank : absent) {
      const Seat& seat = star_.seats[static_cast<size_t>(rank)];
      if (seat.process != 0) gone += fmt::format(" {} came and went.", name_rank(rank, seat));
    }
    if (others_ > 0) gone += fmt::format(" {} of another run came and were sent away.", others_);
    const std::string text = fmt::format(
        "{} of {} did not come to {} within {:.0f} s{}. There are {}.{} Were all started, with this address, and does "
        "no firewall stand between?",
        list_ranks(absent), meeting_.ranks.world, meeting_.address.text(), meeting_.timeout, from(), seen, gone);
    refuse_all(ExitCode::peer, text);
    throw Error(ExitCode::peer, text);
  }

  std::string from() const {
    return meeting_.address_from.empty() ? "" : fmt::format(" (address from {})", meeting_.address_from);
  }

  const Meeting& meeting_;
  Socket listener_;
  double deadline_;
  Star star_;
  std::vector<Stranger> strangers_;
  int others_ = 0;  // ranks of other runs
};

class Guest {
 public:
  explicit Guest(const Meeting& meeting) : meeting_(meeting), deadline_(steady_seconds() + meeting.timeout) {}

  Star come() {
    // Others ask here when rank 0 is gone.
    Socket listener = listen_at({is_loopback(meeting_.address.host) ? meeting_.address.host : "", 0});
    const Hello hello{kProtocol, meeting_.nonce, meeting_.ranks.rank, meeting_.ranks.world, own_seat(listener.port())};
    double pause = 0.02;
    while (steady_seconds() < deadline_ && !given_up()) {
      if (try_once(to_text(hello))) {
        star_.listener = std::move(listener);
        return std::move(star_);
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(pause));
      pause = std::min(pause * 1.5, 1.0);
    }
    if (refused_at_ > 0) throw SaidElsewhere(ExitCode::usage, why_);
    fail(ExitCode::peer,
         "rank {} on {} did not find rank 0 at {} within {:.0f} s{}: {}. Is rank 0 started, is this address its own, "
         "and does no firewall stand between?",
         meeting_.ranks.rank, host_name(), meeting_.address.text(), meeting_.timeout,
         meeting_.address_from.empty() ? "" : fmt::format(" (address from {})", meeting_.address_from), why_);
  }

 private:
  bool try_once(const std::string& hello) {
    const double left = std::max(0.1, deadline_ - steady_seconds());
    Address address = meeting_.address;
    const size_t turn = tries_++ % (meeting_.other_hosts.size() + 1);
    if (turn > 0) address.host = meeting_.other_hosts[turn - 1];
    Socket socket = connect_to(address, std::min(meeting_.other_hosts.empty() ? 5.0 : 1.0, left), why_);
    if (!socket.open()) return false;
    const bool own_host = socket.number() == socket.peer();
    // The table of all ranks comes back.
    Link link(std::move(socket), kMaxGreeting + static_cast<size_t>(meeting_.ranks.world) * 2048);
    send(link, Kind::hello, hello);
    bool greeted = false;
    double until = steady_seconds() + kGreetingSeconds;
    while (steady_seconds() < until) {
      pollfd waited{link.descriptor(), static_cast<short>(link.unsent() ? POLLIN | POLLOUT : POLLIN), 0};
      ::poll(&waited, 1, poll_timeout(until));
      link.flush();
      const bool goes_on = link.read();
      while (const std::optional<Frame> frame = link.next()) {
        if (is(*frame, Kind::refuse)) {
          refused(frame->body, own_host);
          return false;
        }
        if (is(*frame, Kind::welcome)) return welcomed(frame->body, std::move(link));
        if (is(*frame, Kind::banner)) {
          // Rank 0 gives up first where both began together, and says who is missing.
          greeted = true;
          until = deadline_ + 10;
        }
      }
      if (goes_on && !link.open()) stranger(own_host);
      if (!goes_on) {
        why_ = "the connection was closed again";
        return false;
      }
    }
    if (!greeted) stranger(own_host);
    why_ = "it answers, but not all ranks came";
    return false;
  }

  bool welcomed(std::string_view bytes, Link link) {
    Reader table(bytes);
    for (int rank = 0; rank < meeting_.ranks.world; ++rank) {
      Seat seat;
      seat.host = table.text();
      seat.space = table.text();
      seat.process = table.number();
      seat.number = table.text();
      seat.port = static_cast<int>(table.number());
      star_.seats.push_back(std::move(seat));
    }
    T6_CHECK(table.done(), "[control] rank 0 sent no table of {} ranks", meeting_.ranks.world);
    star_.seats[0].number = link.socket().peer();
    star_.links.clear();
    star_.links.push_back(std::move(link));
    return true;
  }

  // What rank 0 says, its own or another run's. Where that one is on this host two runs want one port: our rank 0 gets
  // it as soon as the other run has met, or cannot have it and says so. Returns when it is to be tried again.
  void refused(std::string_view bytes, bool own_host) {
    Reader body(bytes);
    const bool said = body.number() != 0;
    const auto code = body.number() == static_cast<int>(ExitCode::peer) ? ExitCode::peer : ExitCode::usage;
    const std::string text = body.text();
    if (said) throw SaidElsewhere(code, text);
    if (!own_host) throw Error(code, text);
    if (refused_at_ == 0) refused_at_ = steady_seconds();
    why_ = text;
  }
  bool given_up() const { return refused_at_ > 0 && steady_seconds() > refused_at_ + kOtherRunSeconds; }

  // Something else listens there.
  [[noreturn]] void stranger(bool own_host) const {
    const std::string text = fmt::format(
        "what listens at {} is no rank 0 of t6: the port is taken; choose another one{}", meeting_.address.text(),
        meeting_.address_from.empty() ? "" : fmt::format(" ({})", meeting_.address_from));
    // Rank 0 is on this host, then, and cannot have the port: it says so.
    if (own_host) throw SaidElsewhere(ExitCode::usage, text);
    throw Error(ExitCode::usage, text);
  }

  const Meeting& meeting_;
  double deadline_;
  size_t tries_ = 0;
  double refused_at_ = 0;  // by another run, for the first time; 0: never
  std::string why_ = "no try yet";
  Star star_;
};

}  // namespace

Star meet(const Meeting& meeting, Socket listener) {
  T6_CHECK(meeting.nonce.size() <= 4096, "[control] a nonce of {} bytes", meeting.nonce.size());
  if (meeting.ranks.world == 1) {
    Star alone;
    alone.seats.push_back(own_seat(0));
    return alone;
  }
  if (meeting.ranks.rank != 0) return Guest(meeting).come();
  if (!listener.open()) listener = listen_at(meeting.address);
  return Host(meeting, std::move(listener)).wait();
}

std::string list_ranks(const std::vector<int>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i;
    while (end + 1 < ranks.size() && ranks[end + 1] == ranks[end] + 1) ++end;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", ranks[i]);
    if (end > i) text += fmt::format("{}{}", end == i + 1 ? ", " : "-", ranks[end]);
    i = end + 1;
  }
  return (ranks.size() == 1 ? "rank " : "ranks ") + text;
}

std::string name_rank(int rank, const Seat& seat) {
  return fmt::format("rank {} on {} (process {})", rank, seat.host, seat.process);
}

}  // namespace t6::dist
