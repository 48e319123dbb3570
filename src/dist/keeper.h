// The thread that keeps a rank's control channel, and what it shares with the callers of Control.
//
// control.cpp has the callers' side, keeper.cpp the thread's. Members of one side alone stand together; what both touch
// is atomic or in Shared, under its mutex.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "dist/control.h"
#include "dist/survivors.h"
#include "dist/watch.h"

namespace t6::dist {

class Control::Keeper {
 public:
  Keeper(const Ranks& ranks, Star star, ControlOptions options);
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // As in Control.
  std::vector<std::string> all_gather_text(std::string_view text);
  void progress(int64_t step, const char* phase) noexcept;
  void waits(bool begins) noexcept;
  bool say_why(ExitCode code, std::string_view text) noexcept;
  void goodbye();
  void watch_over(std::function<std::string()> failure, std::function<void()> abort);
  const std::vector<Seat>& seats() const { return seats_; }

 private:
  bool is_root() const { return ranks_.rank == 0; }
  void wake() const noexcept;
  void post(Kind kind, std::string body);  // with Shared's mutex held
  std::vector<std::string> pass_round(std::string piece);

  // ---- The thread's side.

  void run();
  bool overlooks(Sign sign) const { return options_.overlook && options_.overlook(sign); }
  double heartbeat() const;
  const Seat& own_seat() const { return seats_[static_cast<size_t>(ranks_.rank)]; }
  Report own_report(double now);
  void beat(double now);  // what is due once a heartbeat
  void look_after_communicator(double now);

  void take_posted();
  void listen_to(size_t i);
  void on_frame_of_rank(int rank, const Frame& frame);
  void on_frame_of_root(const Frame& frame);
  void on_gather(int rank, std::string text);
  void on_goodbye(int rank);
  void on_why(int rank, Reader& body);
  void on_closure(int rank, bool unreachable);

  void end_all(const std::string& text, const std::vector<int>& silent, bool finishes, int reason_of = -1,
               ExitCode code = ExitCode::peer);
  void orphan(std::string text, bool silent);
  void settle_orphan();
  void leave(ExitCode code);
  [[noreturn]] void finish(ExitCode code, const std::string& text);

  const Ranks ranks_;
  const std::vector<Seat> seats_;
  const ControlOptions options_;
  Socket wake_;  // an eventfd
  std::atomic<bool> stop_{false};

  // Of progress() and waits().
  std::atomic<int64_t> step_{-1}, calls_{0};
  std::atomic<const char*> phase_{nullptr};
  std::atomic<bool> waits_{false};
  std::atomic<uint64_t> moves_{0};

  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Frame> posted;                        // by the callers
    std::optional<std::vector<std::string>> result;  // of all_gather_text()
    bool said = false, over = false, all_gone = false;
    std::function<std::string()> failure;
    std::function<void()> on_end;
  };
  Shared shared_;

  // Of the thread alone.
  std::vector<Link> links_;
  Survivors survivors_;
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

  std::thread thread_;  // last: it uses all of these
};

}  // namespace t6::dist
