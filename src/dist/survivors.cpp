#include "dist/survivors.h"

#include <algorithm>
#include <future>
#include <optional>
#include <string>

#include "base/clock.h"

namespace t6::dist {
namespace {

constexpr double kProbeSeconds = 1;  // for another rank to say that it lives
constexpr size_t kProbes = 32;       // ranks asked at once

bool lives(const Seat& seat) {
  std::string why;
  Socket socket = connect_to({seat.number, seat.port}, kProbeSeconds, why);
  if (!socket.open()) return false;
  Link link(std::move(socket), kMaxGreeting);
  send(link, Kind::probe, Writer().text(seat.space).number(seat.process).take());
  const double until = steady_seconds() + kProbeSeconds;
  while (steady_seconds() < until) {
    pollfd waited{link.descriptor(), POLLIN, 0};
    ::poll(&waited, 1, 100);
    const bool goes_on = link.read();
    if (const std::optional<Frame> frame = link.next()) return is(*frame, Kind::alive);
    if (!goes_on || !link.open()) return false;
  }
  return false;
}

}  // namespace

Survivors::Survivors(const std::vector<Seat>& seats, int rank, Socket listener, std::function<void()> found)
    : seats_(seats), rank_(rank), listener_(std::move(listener)), found_(std::move(found)) {}

Survivors::~Survivors() {
  if (prober_.joinable()) prober_.join();
}

void Survivors::wait_for(std::vector<pollfd>& waited) const {
  if (listener_.open()) waited.push_back({listener_.descriptor(), POLLIN, 0});
  for (const Link& guest : guests_) waited.push_back({guest.descriptor(), POLLIN, 0});
}

void Survivors::answer() {
  if (!listener_.open()) return;
  const Seat& own = seats_[static_cast<size_t>(rank_)];
  for (Socket socket = accept_from(listener_); socket.open(); socket = accept_from(listener_)) {
    if (guests_.size() >= 256) guests_.erase(guests_.begin());
    guests_.emplace_back(std::move(socket), kMaxGreeting);
  }
  for (Link& guest : guests_) {
    const bool goes_on = guest.read();
    const std::optional<Frame> frame = guest.next();
    if (frame && is(*frame, Kind::probe)) {
      Reader body(frame->body);
      const bool meant = body.text() == own.space && body.number() == own.process;
      if (meant) send(guest, Kind::alive, "");
      if (!meant) guest.close();
    }
    if (!goes_on || !guest.open()) guest.close();
  }
  std::erase_if(guests_, [](const Link& guest) { return !guest.open(); });
}

void Survivors::search() {
  prober_ = std::thread([this] {
    bool lower_lives = false;
    for (size_t first = 1; first < static_cast<size_t>(rank_) && !lower_lives; first += kProbes) {
      std::vector<std::future<bool>> answers;
      for (size_t rank = first; rank < std::min(first + kProbes, static_cast<size_t>(rank_)); ++rank) {
        answers.push_back(std::async(std::launch::async, [this, rank] { return lives(seats_[rank]); }));
      }
      for (std::future<bool>& answer : answers) lower_lives = answer.get() || lower_lives;
    }
    speaker_ = lower_lives ? Speaker::other : Speaker::self;
    found_();
  });
}

}  // namespace t6::dist
