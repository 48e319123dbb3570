#include "dist/control.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "dist/control_frames.h"
#include "dist/ending.h"
#include "dist/keeper.h"

namespace t6::dist {
namespace {

constexpr size_t kMaxSmall = size_t{128} << 10;  // bytes of a frame without gathered texts
constexpr size_t kMaxText = size_t{1} << 20;     // of one that goes round at once

}  // namespace

Control::Keeper::Keeper(const Ranks& ranks, Star star, ControlOptions options)
    : ranks_(ranks),
      seats_(std::move(star.seats)),
      options_(std::move(options)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      links_(std::move(star.links)),
      survivors_(seats_, ranks.rank, std::move(star.listener), [this] { wake(); }),
      watch_(seats_, steady_seconds()),
      last_change_(steady_seconds()),
      root_heard_(steady_seconds()) {
  T6_CHECK(wake_.open(), "[control] no eventfd");
  for (Link& link : links_)
    link.allow(is_root() ? kMaxText + kMaxSmall : kMaxText * static_cast<size_t>(ranks_.world) + kMaxSmall);
  if (is_root()) gathered_.resize(static_cast<size_t>(ranks_.world));
  // Signals are for the main thread.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Control::Keeper::~Keeper() {
  stop_ = true;
  wake();
  thread_.join();
}

void Control::Keeper::wake() const noexcept {
  const uint64_t one = 1;
  if (::write(wake_.descriptor(), &one, sizeof one) < 0) return;  // full: it is awake
}

void Control::Keeper::post(Kind kind, std::string body) {
  shared_.posted.push_back({static_cast<uint8_t>(kind), std::move(body)});
  wake();
}

std::vector<std::string> Control::Keeper::all_gather_text(std::string_view text) {
  if (ranks_.world == 1) return {std::string(text)};
  // In pieces, of which the first tells how much is to come.
  constexpr size_t kPiece = kMaxText / 2;
  std::vector<std::string> texts;
  size_t longest = 0;
  for (std::string& first :
       pass_round(Writer().number(static_cast<int64_t>(text.size())).text(text.substr(0, kPiece)).take())) {
    Reader body(first);
    longest = std::max(longest, static_cast<size_t>(body.number()));
    texts.push_back(body.text());
  }
  for (size_t at = kPiece; at < longest; at += kPiece) {
    const std::vector<std::string> pieces = pass_round(std::string(text.substr(std::min(at, text.size()), kPiece)));
    for (size_t rank = 0; rank < texts.size(); ++rank) texts[rank] += pieces[rank];
  }
  return texts;
}

std::vector<std::string> Control::Keeper::pass_round(std::string piece) {
  std::unique_lock lock(shared_.mutex);
  shared_.result.reset();
  post(Kind::gather, std::move(piece));
  shared_.changed.wait(lock, [&] { return shared_.result.has_value(); });
  return std::move(*shared_.result);
}

void Control::Keeper::progress(int64_t step, const char* phase) noexcept {
  if (step != step_.load(std::memory_order_relaxed)) {
    step_.store(step, std::memory_order_relaxed);
    calls_.store(0, std::memory_order_relaxed);
  } else {
    calls_.fetch_add(1, std::memory_order_relaxed);
  }
  phase_.store(phase, std::memory_order_relaxed);
  moves_.fetch_add(1, std::memory_order_release);
}

void Control::Keeper::waits(bool begins) noexcept {
  if (begins) calls_.fetch_add(1, std::memory_order_relaxed);
  waits_.store(begins, std::memory_order_relaxed);
  moves_.fetch_add(1, std::memory_order_release);
}

bool Control::Keeper::say_why(ExitCode code, std::string_view text) noexcept {
  if (ranks_.world == 1) return false;
  try {
    std::unique_lock lock(shared_.mutex);
    if (shared_.over) return true;
    post(Kind::why, to_text(code, text));
    return shared_.changed.wait_for(lock, std::chrono::seconds(2), [&] { return shared_.said; });
  } catch (...) {
    return false;  // out of memory: main says it
  }
}

void Control::Keeper::goodbye() {
  std::unique_lock lock(shared_.mutex);
  if (ranks_.world > 1) {
    post(Kind::goodbye, "");
    shared_.changed.wait(lock, [&] { return shared_.all_gone; });
  }
  lock.unlock();
  stop_ = true;
  wake();
}

void Control::Keeper::watch_over(std::function<std::string()> failure, std::function<void()> abort) {
  const std::lock_guard lock(shared_.mutex);
  shared_.failure = std::move(failure);
  shared_.on_end = std::move(abort);
}

Control::Control(const Ranks& ranks, Star star, ControlOptions options)
    : keeper_(std::make_unique<Keeper>(ranks, std::move(star), std::move(options))) {}
Control::~Control() = default;

std::vector<std::string> Control::all_gather_text(std::string_view text) {
  return keeper_->all_gather_text(text);
}
void Control::progress(int64_t step, const char* phase) noexcept {
  keeper_->progress(step, phase);
}
void Control::waits(bool begins) noexcept {
  keeper_->waits(begins);
}
bool Control::say_why(ExitCode code, std::string_view text) noexcept {
  return keeper_->say_why(code, text);
}
void Control::say(const std::string& text) {
  write_line(text);
  log::error_in_files(text);
}
void Control::goodbye() {
  keeper_->goodbye();
}
void Control::watch_over(std::function<std::string()> failure, std::function<void()> abort) {
  keeper_->watch_over(std::move(failure), std::move(abort));
}
const std::vector<Seat>& Control::seats() const {
  return keeper_->seats();
}

}  // namespace t6::dist
