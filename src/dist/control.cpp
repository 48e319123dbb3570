#include "dist/control.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "dist/watch.h"

namespace t6::dist {
namespace {

constexpr double kFinishSeconds = 1;      // for the hook and the log at the end
constexpr double kProbeSeconds = 1;       // for another rank to say that it lives
constexpr double kLingerSeconds = 2;      // to answer those who ask whether this rank lives
constexpr double kUnderstandSeconds = 2;  // for the cause of a communicator's failure to be heard
constexpr double kUnwindSeconds = 5;      // for a rank that said why to end itself
constexpr size_t kProbes = 32;            // ranks asked at once
constexpr size_t kMaxSmall = size_t{128} << 10;

std::string to_text(const Report& report) {
  return Writer()
      .number(report.step)
      .number(report.calls)
      .text(report.phase)
      .number(std::llround(report.age * 1e6))
      .take();
}

Report read_report(Reader& body) {
  Report report;
  report.step = body.number();
  report.calls = body.number();
  report.phase = body.text().substr(0, 200);
  report.age = std::max(0.0, static_cast<double>(body.number()) * 1e-6);
  return report;
}

// Why a rank ends.
std::string to_text(ExitCode code, std::string_view text) {
  return Writer().number(static_cast<int>(code)).text(text.substr(0, 32768)).take();
}

ExitCode read_code(Reader& body) {
  const int64_t code = body.number();
  return code > 0 && code < 128 ? static_cast<ExitCode>(code) : ExitCode::peer;
}

std::string to_text(const std::vector<std::string>& texts) {
  Writer body;
  for (const std::string& text : texts) body.text(text);
  return body.take();
}

// The one message: past stdio and log, whose locks a hanging thread may hold.
void write_line(const std::string& text) {
  const std::string line = fmt::format("{}t6: {}\n", ::isatty(2) != 0 ? "\r\x1b[K" : "", text);
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = ::write(2, line.data() + at, line.size() - at);
    if (n <= 0) return;
    at += static_cast<size_t>(n);
  }
}

}  // namespace

// The thread and what it shares with the callers.
class Control::Keeper {
 public:
  Keeper(const Ranks& ranks, Star star, ControlOptions options)
      : ranks_(ranks),
        seats_(std::move(star.seats)),
        links_(std::move(star.links)),
        listener_(std::move(star.listener)),
        options_(std::move(options)),
        watchdog_(options_.watchdog),
        watch_(seats_, steady_seconds()),
        last_change_(steady_seconds()),
        root_heard_(steady_seconds()),
        wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    T6_CHECK(wake_.open(), "[control] no eventfd");
    for (Link& link : links_) link.allow(kMaxText * static_cast<size_t>(ranks_.world) + kMaxSmall);
    for (Link& link : links_) {
      if (is_root()) link.allow(kMaxText + kMaxSmall);
    }
    if (is_root()) gathered_.resize(static_cast<size_t>(ranks_.world));
    // Signals are for the main thread.
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  ~Keeper() {
    stop_ = true;
    wake();
    thread_.join();
    if (prober_.joinable()) prober_.join();
  }

  // ---- callers' side ----

  std::vector<std::string> all_gather_text(std::string_view text) {
    T6_CHECK(text.size() <= kMaxText, "[control] a text of {} bytes, at most {} go round", text.size(), kMaxText);
    if (ranks_.world == 1) return {std::string(text)};
    std::unique_lock lock(mutex_);
    result_.reset();
    post(Kind::gather, std::string(text));
    changed_.wait(lock, [&] { return result_.has_value(); });
    return std::move(*result_);
  }

  void progress(int64_t step, const char* phase) noexcept {
    if (step != step_.load(std::memory_order_relaxed)) {
      step_.store(step, std::memory_order_relaxed);
      calls_.store(0, std::memory_order_relaxed);
    } else {
      calls_.fetch_add(1, std::memory_order_relaxed);
    }
    phase_.store(phase, std::memory_order_relaxed);
    moves_.fetch_add(1, std::memory_order_release);
  }

  bool say_why(ExitCode code, std::string_view text) noexcept {
    if (ranks_.world == 1) return false;
    try {
      std::unique_lock lock(mutex_);
      if (over_) return true;
      post(Kind::why, to_text(code, text));
      return changed_.wait_for(lock, std::chrono::seconds(2), [&] { return said_; });
    } catch (...) {
      return false;  // out of memory: main says it
    }
  }

  void goodbye() {
    std::unique_lock lock(mutex_);
    if (ranks_.world > 1) {
      post(Kind::goodbye, "");
      changed_.wait(lock, [&] { return all_gone_; });
    }
    lock.unlock();
    stop_ = true;
    wake();
  }

  void watch_over(std::function<std::string()> failure, std::function<void()> abort) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(failure);
    on_end_ = std::move(abort);
  }
  void set_watchdog(double seconds) { watchdog_ = seconds; }
  const std::vector<Seat>& seats() const { return seats_; }

 private:
  bool is_root() const { return ranks_.rank == 0; }
  bool overlooks(Sign sign) const { return options_.overlook && options_.overlook(sign); }
  double heartbeat() const {
    const double limit = watchdog_;
    return limit > 0 ? std::min(options_.heartbeat, limit / 4) : options_.heartbeat;
  }

  void wake() const noexcept {
    const uint64_t one = 1;
    if (::write(wake_.descriptor(), &one, sizeof one) < 0) return;  // full: it is awake
  }

  // With the mutex held.
  void post(Kind kind, std::string body) {
    posted_.push_back({static_cast<uint8_t>(kind), std::move(body)});
    wake();
  }

  // ---- the thread's side ----

  void run() {
    double next_beat = steady_seconds();
    while (!stop_) {
      const double before = steady_seconds();
      const double wait = std::max(0.0, next_beat - before);
      std::vector<pollfd> waited{{wake_.descriptor(), POLLIN, 0}};
      if (listener_.open()) waited.push_back({listener_.descriptor(), POLLIN, 0});
      for (const Link& link : links_) {
        if (link.open()) {
          waited.push_back({link.descriptor(), static_cast<short>(link.unsent() ? POLLIN | POLLOUT : POLLIN), 0});
        }
      }
      for (const Link& guest : guests_) waited.push_back({guest.descriptor(), POLLIN, 0});
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
      answer_guests();
      settle_orphan();
      if (now >= next_beat) {
        beat(now);
        next_beat = std::max(next_beat + heartbeat(), now);
      }
    }
    for (Link& link : links_) link.drain(0.5);
  }

  Report own_report(double now) {
    const uint64_t moves = moves_.load(std::memory_order_acquire);
    if (moves != seen_moves_) {
      seen_moves_ = moves;
      last_change_ = now;
    }
    const char* phase = phase_.load(std::memory_order_relaxed);
    return {step_.load(std::memory_order_relaxed), calls_.load(std::memory_order_relaxed),
            phase == nullptr ? "" : phase, now - last_change_};
  }

  void beat(double now) {
    const Report report = own_report(now);
    const double limit = watchdog_;
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
  void look_after_communicator(double now) {
    if (left_at_ > 0 || orphaned_at_ > 0 || overlooks(Sign::failure)) return;
    std::string text;
    {
      const std::lock_guard lock(mutex_);
      if (failure_) text = failure_();
    }
    if (text.empty()) return;
    if (failed_at_ == 0) failed_at_ = now;
    if (now - failed_at_ < kUnderstandSeconds) return;
    if (is_root()) {
      end_all(fmt::format("{} could not go on at {}: {}", name_rank(0, own_seat()), describe(own_report(now)), text),
              {}, true);
    } else {
      send(links_[0], Kind::why, to_text(own_report(now)) + to_text(ExitCode::peer, text));
    }
  }

  void take_posted() {
    std::deque<Frame> posted;
    {
      const std::lock_guard lock(mutex_);
      posted.swap(posted_);
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

  void listen_to(size_t i) {
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

  void on_frame_of_rank(int rank, const Frame& frame) {
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

  void on_frame_of_root(const Frame& frame) {
    root_heard_ = steady_seconds();
    Reader body(frame.body);
    if (is(frame, Kind::gathered)) {
      std::vector<std::string> texts;
      for (int rank = 0; rank < ranks_.world; ++rank) texts.push_back(body.text());
      const std::lock_guard lock(mutex_);
      result_ = std::move(texts);
      changed_.notify_all();
    } else if (is(frame, Kind::all_gone)) {
      const std::lock_guard lock(mutex_);
      all_gone_ = true;
      stop_ = true;
      changed_.notify_all();
    } else if (is(frame, Kind::end)) {
      const int64_t reason_of = body.number();
      const ExitCode code = read_code(body);
      const std::string text = body.text();
      const int64_t count = body.number();
      std::vector<int> silent;
      for (int64_t i = 0; i < count && body.good(); ++i) silent.push_back(static_cast<int>(body.number()));
      if (reason_of == ranks_.rank) return leave(code);
      kill_silent(silent);
      finish(code, text);
    }
  }

  // This rank's own error is said: it ends itself, with its own exit code, and in good time.
  void leave(ExitCode code) {
    left_at_ = steady_seconds();
    left_code_ = code;
    const std::lock_guard lock(mutex_);
    said_ = over_ = true;
    changed_.notify_all();
  }

  void on_gather(int rank, std::string text) {
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
    const std::lock_guard lock(mutex_);
    result_ = std::move(texts);
    changed_.notify_all();
  }

  void on_goodbye(int rank) {
    watch_.on_goodbye(rank);
    if (!watch_.all_gone()) return;
    for (Link& link : links_) {
      if (link.open()) send(link, Kind::all_gone, "");
      link.drain(0.5);
    }
    const std::lock_guard lock(mutex_);
    all_gone_ = true;
    stop_ = true;
    changed_.notify_all();
  }

  void on_why(int rank, Reader& body) {
    const ExitCode code = read_code(body);
    end_all(fmt::format("{} ended by an error at {}: {}", name_rank(rank, seats_[static_cast<size_t>(rank)]),
                        describe(watch_.report(rank)), body.text()),
            {}, rank != 0, rank, code);
  }

  void on_closure(int rank, bool unreachable) {
    const char* how = unreachable ? "cannot be reached" : "died";
    const std::string why =
        unreachable
            ? fmt::format(
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
    end_all(fmt::format("{} {}, last seen at {}, rank 0 being at {}: {}",
                        name_rank(rank, seats_[static_cast<size_t>(rank)]), how, describe(watch_.report(rank)),
                        describe(own_report(steady_seconds())), why),
            {}, true);
  }

  // Rank 0 ends the run. `reason_of` ended by an error of its own, which has this code, and is left to end itself.
  void end_all(const std::string& text, const std::vector<int>& silent, bool finishes, int reason_of = -1,
               ExitCode code = ExitCode::peer) {
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
    kill_silent(silent);
    if (!finishes) return leave(code);
    finish(code, text);
  }

  // Rank 0 is gone. The lowest living rank says so: each asks those below it.
  void orphan(std::string text, bool silent) {
    if (orphaned_at_ > 0) return;
    orphaned_at_ = steady_seconds();
    last_words_ = std::move(text);
    root_silent_ = silent;
    prober_ = std::thread([this] {
      bool lower_lives = false;
      for (size_t first = 1; first < static_cast<size_t>(ranks_.rank) && !lower_lives; first += kProbes) {
        std::vector<std::future<bool>> answers;
        for (size_t rank = first; rank < std::min(first + kProbes, static_cast<size_t>(ranks_.rank)); ++rank) {
          answers.push_back(std::async(std::launch::async, [this, rank] { return lives(seats_[rank]); }));
        }
        for (std::future<bool>& answer : answers) lower_lives = answer.get() || lower_lives;
      }
      probed_ = lower_lives ? 2 : 1;
      wake();
    });
  }

  static bool lives(const Seat& seat) {
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

  void answer_guests() {
    if (!listener_.open()) return;
    for (Socket socket = accept_from(listener_); socket.open(); socket = accept_from(listener_)) {
      if (guests_.size() >= 256) guests_.erase(guests_.begin());
      guests_.emplace_back(std::move(socket), kMaxGreeting);
    }
    for (Link& guest : guests_) {
      const bool goes_on = guest.read();
      const std::optional<Frame> frame = guest.next();
      if (frame && is(*frame, Kind::probe)) {
        Reader body(frame->body);
        const bool meant = body.text() == own_seat().space && body.number() == own_seat().process;
        if (meant) send(guest, Kind::alive, "");
        if (!meant) guest.close();
      }
      if (!goes_on || !guest.open()) guest.close();
    }
    std::erase_if(guests_, [](const Link& guest) { return !guest.open(); });
  }

  void settle_orphan() {
    if (orphaned_at_ == 0 || probed_ == 0) return;
    const bool speaks = probed_ == 1;
    const double past = steady_seconds() - orphaned_at_;
    if (speaks && !said_last_words_) {
      said_last_words_ = true;
      write_line(last_words_);
      if (links_[0].open()) send(links_[0], Kind::end, Writer().text(last_words_).take());
      if (root_silent_) kill_silent({0});
    }
    // Others answer for as long as somebody may ask, and do not end rank 0 before the speaker has seen it silent, too.
    if (past < kLingerSeconds && (root_silent_ || (speaks && ranks_.rank < ranks_.world - 1))) return;
    if (root_silent_) kill_silent({0});
    finish(ExitCode::peer, last_words_);
  }

  // Those of this host that cannot end themselves.
  void kill_silent(const std::vector<int>& silent) const {
    for (const int rank : silent) {
      const Seat& seat = seats_[static_cast<size_t>(rank)];
      if (rank == ranks_.rank || seat.space.empty() || seat.space != own_seat().space || seat.process <= 1) continue;
      ::kill(static_cast<pid_t>(seat.process), SIGKILL);
    }
  }

  const Seat& own_seat() const { return seats_[static_cast<size_t>(ranks_.rank)]; }

  // Ends the process. The hook and the log may wait for what the hanging thread holds, so they get a time and no more.
  [[noreturn]] void finish(ExitCode code, const std::string& text) {
    std::function<void()> hook;
    if (std::unique_lock lock(mutex_, std::try_to_lock); lock) hook = on_end_;
    std::promise<void> done;
    std::future<void> ended = done.get_future();
    try {
      std::thread([&hook, &text, &done, root = is_root()] {
        if (root && !text.empty()) log::error_in_files(text);
        std::fflush(stdout);
        if (hook) hook();
        done.set_value();
      }).detach();
      ended.wait_for(std::chrono::duration<double>(kFinishSeconds));
    } catch (const std::system_error&) {
      // No thread to be had: it ends without.
    }
    ::_exit(static_cast<int>(code));
  }

  const Ranks ranks_;
  const std::vector<Seat> seats_;
  std::vector<Link> links_;
  Socket listener_;
  const ControlOptions options_;
  std::atomic<double> watchdog_;

  // Of progress().
  std::atomic<int64_t> step_{-1}, calls_{0};
  std::atomic<const char*> phase_{nullptr};
  std::atomic<uint64_t> moves_{0};

  // Of the thread alone.
  Watch watch_;  // of rank 0
  uint64_t seen_moves_ = 0;
  double last_change_;                             // of progress()
  double root_heard_;                              // when rank 0 last sent anything
  std::vector<std::deque<std::string>> gathered_;  // of rank 0: texts that came, by rank
  double left_at_ = 0;                             // this rank's own error was said; 0: it has none
  ExitCode left_code_ = ExitCode::peer;            // its code
  double failed_at_ = 0;                           // the communicator; 0: it did not
  double orphaned_at_ = 0;                         // rank 0 is gone since; 0: it is there
  bool root_silent_ = false, said_last_words_ = false;
  std::string last_words_;
  std::vector<Link> guests_;  // who ask whether this rank lives
  std::thread prober_;
  std::atomic<int> probed_{0};  // 1: no lower rank lives, 2: one does

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Frame> posted_;
  std::optional<std::vector<std::string>> result_;
  bool said_ = false, over_ = false, all_gone_ = false;
  std::function<std::string()> failure_;
  std::function<void()> on_end_;

  Socket wake_;  // an eventfd
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

Control::Control(const Ranks& ranks, Star star, ControlOptions options)
    : keeper_(std::make_unique<Keeper>(ranks, std::move(star), std::move(options))) {}
Control::~Control() = default;

std::vector<std::string> Control::all_gather_text(std::string_view text) {
  return keeper_->all_gather_text(text);
}
void Control::progress(int64_t step, const char* phase) noexcept {
  keeper_->progress(step, phase);
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
void Control::set_watchdog(double seconds) {
  keeper_->set_watchdog(seconds);
}
const std::vector<Seat>& Control::seats() const {
  return keeper_->seats();
}

}  // namespace t6::dist
