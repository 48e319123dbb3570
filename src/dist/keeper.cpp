#include "dist/keeper.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "dist/control_frames.h"
#include "dist/ending.h"

namespace t6::dist {
namespace {

constexpr double kLingerSeconds = 2;      // to answer those who ask whether this rank lives
constexpr double kUnderstandSeconds = 2;  // for the cause of a communicator's failure to be heard
constexpr double kUnwindSeconds = 5;      // for a rank that said why to end itself

}  // namespace

void Control::Keeper::run() {
  double next_beat = steady_seconds();
  while (!stop_) {
    const double before = steady_seconds();
    const double wait = std::max(0.0, next_beat - before);
    std::vector<pollfd> waited{{wake_.descriptor(), POLLIN, 0}};
    for (const Link& link : links_) {
      if (link.open()) {
        waited.push_back({link.descriptor(), static_cast<short>(link.unsent() ? POLLIN | POLLOUT : POLLIN), 0});
      }
    }
    survivors_.wait_for(waited);
    ::poll(waited.data(), waited.size(), static_cast<int>(std::ceil(wait * 1000)));
    const double now = steady_seconds();
    // This process was stopped, or starved: what it did not hear meanwhile is no sign of others.
    if (const double lost = now - before - wait; lost > 1) {
      watch_.forgive(lost);
      root_heard_ += lost;
      last_change_ += lost;
    }
    uint64_t count = 0;
    if (::read(wake_.descriptor(), &count, sizeof count) < 0) count = 0;
    take_posted();
    for (size_t i = 0; i < links_.size(); ++i) listen_to(i);
    survivors_.answer();
    settle_orphan();
    if (now >= next_beat) {
      beat(now);
      next_beat = std::max(next_beat + heartbeat(), now);
    }
  }
  for (Link& link : links_) link.drain(0.5);
}

double Control::Keeper::heartbeat() const {
  const double limit = options_.watchdog;
  return limit > 0 ? std::min(options_.heartbeat, limit / 4) : options_.heartbeat;
}

Report Control::Keeper::own_report(double now) {
  const uint64_t moves = moves_.load(std::memory_order_acquire);
  if (moves != seen_moves_) {
    seen_moves_ = moves;
    last_change_ = now;
  }
  const char* phase = phase_.load(std::memory_order_relaxed);
  std::string text = phase == nullptr ? "" : phase;
  if (waits_.load(std::memory_order_relaxed))
    text += text.empty() ? "waiting for all ranks" : ", waiting for all ranks";
  return {step_.load(std::memory_order_relaxed), calls_.load(std::memory_order_relaxed), std::move(text),
          now - last_change_};
}

void Control::Keeper::beat(double now) {
  const Report report = own_report(now);
  const double limit = options_.watchdog;
  if (left_at_ > 0 && now > left_at_ + kUnwindSeconds) finish(left_code_, {});
  look_after_communicator(now);
  if (is_root()) {
    watch_.on_report(0, report, now);
    for (Link& link : links_) {
      if (link.open() && !overlooks(Sign::report)) send(link, Kind::report, "");
    }
    if (limit <= 0 || overlooks(Sign::hang)) return;
    const Watch::Verdict verdict = watch_.hang(limit, std::min(3 * heartbeat() + 0.5, 0.9 * limit), now);
    if (!verdict.text.empty()) end_all(verdict.text, verdict.silent, true);
    return;
  }
  if (links_[0].open() && !overlooks(Sign::report)) send(links_[0], Kind::report, to_text(report));
  if (limit > 0 && orphaned_at_ == 0 && now - root_heard_ > limit && !overlooks(Sign::silence)) {
    orphan(fmt::format("{} hangs: it sends nothing (stopped, or its host cannot be reached) for {:.1f} s, the "
                       "watchdog's limit is {:g} s; this is said by {}, which was at {}",
                       name_rank(0, seats_[0]), now - root_heard_, limit, name_rank(ranks_.rank, own_seat()),
                       describe(report)),
           true);
  }
}

// Most often an operation fails because a rank is gone, which the channel is about to hear with its name.
void Control::Keeper::look_after_communicator(double now) {
  if (left_at_ > 0 || orphaned_at_ > 0 || overlooks(Sign::failure)) return;
  std::string text;
  {
    const std::lock_guard lock(shared_.mutex);
    if (shared_.failure) text = shared_.failure();
  }
  if (text.empty()) return;
  if (failed_at_ == 0) failed_at_ = now;
  if (now - failed_at_ < kUnderstandSeconds) return;
  if (is_root()) {
    end_all(fmt::format("{} could not go on at {}: {}", name_rank(0, own_seat()), describe(own_report(now)), text), {},
            true);
  } else {
    send(links_[0], Kind::why, to_text(own_report(now)) + to_text(ExitCode::peer, text));
  }
}

void Control::Keeper::take_posted() {
  std::deque<Frame> posted;
  {
    const std::lock_guard lock(shared_.mutex);
    posted.swap(shared_.posted);
  }
  for (Frame& frame : posted) {
    if (!is_root()) {
      std::string body = std::move(frame.body);
      if (is(frame, Kind::why)) body = to_text(own_report(steady_seconds())) + body;
      links_[0].send(frame.kind, body);
      continue;
    }
    if (is(frame, Kind::gather)) on_gather(0, std::move(frame.body));
    if (is(frame, Kind::goodbye)) on_goodbye(0);
    if (is(frame, Kind::why)) {
      watch_.on_report(0, own_report(steady_seconds()), steady_seconds());
      Reader body(frame.body);
      on_why(0, body);
    }
  }
}

void Control::Keeper::listen_to(size_t i) {
  Link& link = links_[i];
  if (!link.open()) return;
  link.flush();
  const bool goes_on = link.read();
  while (const std::optional<Frame> frame = link.next()) {
    if (is_root()) {
      on_frame_of_rank(static_cast<int>(i), *frame);
    } else {
      on_frame_of_root(*frame);
    }
    if (stop_) return;
  }
  if (goes_on && link.open()) return;
  if (overlooks(Sign::closure)) {
    link.close();
    return;
  }
  const bool unreachable = link.unreachable();
  link.close();
  on_closure(static_cast<int>(i), unreachable);
}

void Control::Keeper::on_frame_of_rank(int rank, const Frame& frame) {
  Reader body(frame.body);
  const double now = steady_seconds();
  if (is(frame, Kind::report)) {
    const Report report = read_report(body);
    if (body.done()) watch_.on_report(rank, report, now);
  } else if (is(frame, Kind::gather)) {
    on_gather(rank, frame.body);
  } else if (is(frame, Kind::goodbye)) {
    on_goodbye(rank);
  } else if (is(frame, Kind::why)) {
    watch_.on_report(rank, read_report(body), now);
    on_why(rank, body);
  } else if (is(frame, Kind::end)) {
    // Others found this process stopped and ended the run; they have said it.
    finish(ExitCode::peer, body.text());
  }
}

void Control::Keeper::on_frame_of_root(const Frame& frame) {
  root_heard_ = steady_seconds();
  Reader body(frame.body);
  if (is(frame, Kind::gathered)) {
    std::vector<std::string> texts;
    for (int rank = 0; rank < ranks_.world; ++rank) texts.push_back(body.text());
    const std::lock_guard lock(shared_.mutex);
    shared_.result = std::move(texts);
    shared_.changed.notify_all();
  } else if (is(frame, Kind::all_gone)) {
    const std::lock_guard lock(shared_.mutex);
    shared_.all_gone = true;
    stop_ = true;
    shared_.changed.notify_all();
  } else if (is(frame, Kind::end)) {
    const int64_t reason_of = body.number();
    const ExitCode code = read_code(body);
    const std::string text = body.text();
    const int64_t count = body.number();
    std::vector<int> silent;
    for (int64_t i = 0; i < count && body.good(); ++i) silent.push_back(static_cast<int>(body.number()));
    if (reason_of == ranks_.rank) return leave(code);
    kill_silent(seats_, ranks_.rank, silent);
    finish(code, text);
  }
}

// This rank's own error is said: it ends itself, with its own exit code, and in good time.
void Control::Keeper::leave(ExitCode code) {
  left_at_ = steady_seconds();
  left_code_ = code;
  const std::lock_guard lock(shared_.mutex);
  shared_.said = shared_.over = true;
  shared_.changed.notify_all();
}

void Control::Keeper::on_gather(int rank, std::string text) {
  gathered_[static_cast<size_t>(rank)].push_back(std::move(text));
  if (std::any_of(gathered_.begin(), gathered_.end(), [](const auto& queue) { return queue.empty(); })) return;
  std::vector<std::string> texts;
  for (auto& queue : gathered_) {
    texts.push_back(std::move(queue.front()));
    queue.pop_front();
  }
  const std::string body = to_text(texts);
  for (Link& link : links_) {
    if (link.open()) send(link, Kind::gathered, body);
  }
  const std::lock_guard lock(shared_.mutex);
  shared_.result = std::move(texts);
  shared_.changed.notify_all();
}

void Control::Keeper::on_goodbye(int rank) {
  watch_.on_goodbye(rank);
  if (!watch_.all_gone()) return;
  for (Link& link : links_) {
    if (link.open()) send(link, Kind::all_gone, "");
    link.drain(0.5);
  }
  const std::lock_guard lock(shared_.mutex);
  shared_.all_gone = true;
  stop_ = true;
  shared_.changed.notify_all();
}

void Control::Keeper::on_why(int rank, Reader& body) {
  const ExitCode code = read_code(body);
  end_all(fmt::format("{} ended by an error at {}: {}", name_rank(rank, seats_[static_cast<size_t>(rank)]),
                      describe(watch_.report(rank)), body.text()),
          {}, rank != 0, rank, code);
}

void Control::Keeper::on_closure(int rank, bool unreachable) {
  const char* how = unreachable ? "cannot be reached" : "died";
  const std::string why =
      unreachable ? fmt::format(
                        "its host answers nothing for {} s (the network between them or the host is down; "
                        "whether the process lives is not known)",
                        kUnreachableSeconds)
                  : "its connection closed without a word (killed, out of memory, or crashed; the job's log and dmesg "
                    "may say more)";
  if (!is_root()) {
    if (left_at_ > 0) return;
    return orphan(fmt::format("{} {}: {}; this is said by {}, which was at {}", name_rank(0, seats_[0]), how, why,
                              name_rank(ranks_.rank, own_seat()), describe(own_report(steady_seconds()))),
                  false);
  }
  if (watch_.gone(rank) || (left_at_ > 0 && rank != 0)) return;
  end_all(
      fmt::format("{} {}, last seen at {}, rank 0 being at {}: {}", name_rank(rank, seats_[static_cast<size_t>(rank)]),
                  how, describe(watch_.report(rank)), describe(own_report(steady_seconds())), why),
      {}, true);
}

// Rank 0 ends the run. `reason_of` ended by an error of its own, which has this code, and is left to end itself.
void Control::Keeper::end_all(const std::string& text, const std::vector<int>& silent, bool finishes, int reason_of,
                              ExitCode code) {
  if (left_at_ > 0) return;
  write_line(text);
  Writer body;
  body.number(reason_of).number(static_cast<int>(code)).text(text).number(static_cast<int64_t>(silent.size()));
  for (const int rank : silent) body.number(rank);
  const std::string bytes = body.take();
  for (Link& link : links_) {
    if (link.open()) send(link, Kind::end, bytes);
  }
  const double until = steady_seconds() + 0.5;
  for (Link& link : links_) {
    if (link.open()) link.drain(std::max(0.0, until - steady_seconds()));
  }
  kill_silent(seats_, ranks_.rank, silent);
  if (!finishes) return leave(code);
  finish(code, text);
}

// Rank 0 is gone. The lowest living rank says so: each asks those below it.
void Control::Keeper::orphan(std::string text, bool silent) {
  if (orphaned_at_ > 0) return;
  orphaned_at_ = steady_seconds();
  last_words_ = std::move(text);
  root_silent_ = silent;
  survivors_.search();
}

void Control::Keeper::settle_orphan() {
  if (orphaned_at_ == 0 || survivors_.speaker() == Survivors::Speaker::unknown) return;
  const bool speaks = survivors_.speaker() == Survivors::Speaker::self;
  const double past = steady_seconds() - orphaned_at_;
  if (speaks && !said_last_words_) {
    said_last_words_ = true;
    write_line(last_words_);
    if (links_[0].open()) send(links_[0], Kind::end, Writer().text(last_words_).take());
    if (root_silent_) kill_silent(seats_, ranks_.rank, {0});
  }
  // Others answer for as long as somebody may ask, and do not end rank 0 before the speaker has seen it silent, too.
  if (past < kLingerSeconds && (root_silent_ || (speaks && ranks_.rank < ranks_.world - 1))) return;
  if (root_silent_) kill_silent(seats_, ranks_.rank, {0});
  finish(ExitCode::peer, last_words_);
}

// Ends the process, with what the communicator and the log have to do before.
void Control::Keeper::finish(ExitCode code, const std::string& text) {
  std::function<void()> hook;
  if (std::unique_lock lock(shared_.mutex, std::try_to_lock); lock) hook = shared_.on_end;
  end_process(code, [&hook, &text, root = is_root()] {
    if (root && !text.empty()) log::error_in_files(text);
    std::fflush(stdout);
    if (hook) hook();
  });
}

}  // namespace t6::dist
