// Progress of long work: a bar on a terminal, a plain line now and then elsewhere.
//
//   tokenize   42% ━━━━━━━━━━━━━╸────────────────── 1.30 GB/3.10 GB  104 MB/s  eta 17.3s  12.5s
//
// The bar is redrawn at most ten times a second and gives way to log lines (log::set_transient_line). Without a
// terminal, or with TERM=dumb, a log line is written for each further 10 % (at most one a second) and after ten seconds
// of silence (or a twentieth of the time gone, when that is more). NO_COLOR is honoured; a narrow terminal gets fewer
// parts; log::quiet() no bar.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace t6 {

// What a bar shows at one moment.
struct ProgressView {
  std::string label;
  std::string unit;  // "step", "doc"; "B" is written with byte prefixes
  uint64_t done = 0;
  uint64_t total = 0;          // 0: not known
  std::optional<double> rate;  // units a second, lately
  std::optional<double> eta;   // seconds
  double elapsed = 0;          // seconds
  std::string note;            // such as "loss 3.21"
};

// The bar in at most `columns` columns, without line ends; escape sequences only for colour.
std::string render_bar(const ProgressView& view, int columns, bool color, bool unicode);
// tokenize: 42 %, 1.30 GB of 3.10 GB, 104 MB/s, eta 17.3s
std::string render_line(const ProgressView& view);
// tokenize: 3.10 GB in 29.8s, 104 MB/s
std::string render_summary(const ProgressView& view);

struct ProgressOptions {
  std::string label;
  std::string unit = "B";
  uint64_t total = 0;       // 0: not known
  uint64_t start = 0;       // done before this process began: part of the bar, not of the rate
  bool plain_lines = true;  // false where the caller logs its own lines; then only a terminal shows anything
  bool summary = true;      // finish() logs a last line
};

// Where a bar is shown; standard error but for tests.
struct ProgressTerminal {
  bool interactive = false;
  bool color = false;
  bool unicode = false;
  std::function<int()> columns;
  std::function<void(std::string_view)> write;  // raw bytes
  std::function<void(const std::string&)> say;  // a log line
  std::function<double()> clock;                // seconds, steady
  static ProgressTerminal standard_error();
};

// Counts work and shows it. advance(), set() and note() may be called from any thread, and cost a clock reading. Bars
// nest: the newest alive is shown.
class Progress {
 public:
  explicit Progress(ProgressOptions options, ProgressTerminal terminal = ProgressTerminal::standard_error());
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();  // takes the bar away, as after an error

  void advance(uint64_t units = 1);
  void set(uint64_t done);
  void note(std::string text);
  // Takes the bar away and says how long the work took. Later calls do nothing.
  void finish();

 private:
  friend struct ProgressScreen;
  void refresh();
  void measure(double now);  // under the screen's mutex, as the next two
  ProgressView view(double now) const;
  void draw(double now);

  const ProgressOptions options_;
  const ProgressTerminal terminal_;
  const double started_;
  std::atomic<uint64_t> done_;
  std::atomic<double> next_look_;
  bool shown_ = false;
  bool finished_ = false;
  std::string note_;
  // Work and time of late, fading over kMemory seconds; their quotient is the rate.
  double recent_units_ = 0, recent_seconds_ = 0;
  double measured_at_;
  uint64_t measured_done_;
  // Of the last plain line.
  double said_at_;
  uint64_t said_tenths_ = 0;
};

}  // namespace t6
