#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "base/clock.h"
#include "base/format.h"
#include "base/log.h"
#include "base/printable.h"

namespace t6 {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kMemory = 10;  // seconds over which the rate forgets
constexpr int kBarLeast = 10, kBarMost = 40;
constexpr std::string_view kEraseLine = "\r\x1b[K";

bool environment_says(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

// Terminal columns of a text without escape sequences: code points, close enough for labels and notes.
int width_of(std::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// At most `columns` columns, cut at a code point.
std::string cut(std::string_view text, int columns) {
  size_t end = 0;
  for (int seen = 0; end < text.size(); ++end) {
    if ((text[end] & 0xC0) != 0x80 && seen++ == columns) break;
  }
  return std::string(text.substr(0, end));
}

std::string amount(double units, const std::string& unit) {
  return unit == "B" ? format_bytes(units) : fmt::format("{} {}", format_count(units), unit);
}

double fraction_of(const ProgressView& view) {
  return std::min(1.0, static_cast<double>(view.done) / static_cast<double>(view.total));
}

std::string percent_of(const ProgressView& view) {
  return fmt::format("{:.0f}", std::floor(fraction_of(view) * 100));
}

std::string done_of_total(const ProgressView& view, std::string_view between) {
  const auto done = static_cast<double>(view.done), total = static_cast<double>(view.total);
  if (view.total == 0) return amount(done, view.unit);
  return (view.unit == "B" ? format_bytes(done) : format_count(done)) + std::string(between) + amount(total, view.unit);
}

std::string draw_bar(double fraction, int width, bool color, bool unicode) {
  const int halves = static_cast<int>(fraction * width * 2);
  const int full = halves / 2;
  std::string filled, rest;
  for (int i = 0; i < full; ++i) filled += unicode ? "━" : "=";
  const bool edge = full < width && (unicode ? halves % 2 == 1 : full > 0);
  if (edge) filled += unicode ? "╸" : ">";
  for (int i = full + (edge ? 1 : 0); i < width; ++i) rest += unicode ? "─" : "-";
  return color ? fmt::format("\x1b[36m{}\x1b[0;2m{}\x1b[0m", filled, rest) : filled + rest;
}

}  // namespace

std::string render_bar(const ProgressView& view, int columns, bool color, bool unicode) {
  const std::string label = cut(printable(view.label, view.label.size()), std::max(0, columns - 6));
  // Parts in the order they are shown, with the order in which they give way on a narrow terminal (the highest first).
  struct Part {
    std::string text;
    int rank;
    bool shown = false;
  };
  std::vector<Part> parts;
  if (view.total > 0) parts.push_back({fmt::format("{:>3}%", percent_of(view)), 0});
  const size_t bar_after = parts.size();
  parts.push_back({done_of_total(view, "/"), view.total > 0 ? 4 : 0});
  if (view.rate) parts.push_back({amount(*view.rate, view.unit) + "/s", 3});
  if (view.eta) parts.push_back({"eta " + format_duration(*view.eta), 1});
  parts.push_back({format_duration(view.elapsed), 5});
  if (!view.note.empty()) parts.push_back({printable(view.note, view.note.size()), 6});

  int used = width_of(label);
  bool bar = false;
  for (int rank = 0; rank <= 6; ++rank) {
    for (Part& part : parts) {
      const int needed = width_of(part.text) + 2;
      if (part.rank != rank || used + needed > columns) continue;
      part.shown = true;
      used += needed;
    }
    if (rank == 1 && view.total > 0 && used + kBarLeast + 1 <= columns) {
      bar = true;
      used += kBarLeast + 1;
    }
  }
  std::string line = color ? fmt::format("\x1b[1m{}\x1b[0m", label) : label;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i == bar_after && bar) {
      const int width = std::min(kBarMost, kBarLeast + columns - used);
      line.append(1, ' ').append(draw_bar(fraction_of(view), width, color, unicode));
    }
    if (parts[i].shown) line.append(line.empty() ? 0 : 2, ' ').append(parts[i].text);
  }
  return line;
}

std::string render_line(const ProgressView& view) {
  std::string line = view.label + ": ";
  if (view.total > 0) line += percent_of(view) + " %, ";
  line += done_of_total(view, " of ");
  if (view.rate) line.append(", ").append(amount(*view.rate, view.unit)).append("/s");
  if (view.eta) line.append(", eta ").append(format_duration(*view.eta));
  if (view.total == 0) line.append(", ").append(format_duration(view.elapsed));
  if (!view.note.empty()) line.append(", ").append(view.note);
  return line;
}

std::string render_summary(const ProgressView& view) {
  std::string line = fmt::format("{}: {} in {}", view.label, amount(static_cast<double>(view.done), view.unit),
                                 format_duration(view.elapsed));
  if (view.rate) line.append(", ").append(amount(*view.rate, view.unit)).append("/s");
  if (!view.note.empty()) line.append(", ").append(view.note);
  return line;
}

ProgressTerminal ProgressTerminal::standard_error() {
  ProgressTerminal terminal;
  const char* term = std::getenv("TERM");
  const bool smart = term != nullptr && *term != '\0' && std::string_view(term) != "dumb";
  terminal.interactive = smart && !log::quiet() && ::isatty(STDERR_FILENO) == 1;
  terminal.color = !environment_says("NO_COLOR");
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (!environment_says(name)) continue;
    const std::string_view value = std::getenv(name);
    terminal.unicode =
        value.find("UTF-8") != value.npos || value.find("utf8") != value.npos || value.find("UTF8") != value.npos;
    break;
  }
  terminal.columns = [] {
    struct winsize size {};
    if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return static_cast<int>(size.ws_col);
    const char* given = std::getenv("COLUMNS");
    const int value = given != nullptr ? std::atoi(given) : 0;
    return value > 0 ? value : 80;
  };
  terminal.write = [](std::string_view bytes) {
    // A terminal that is gone is no reason to stop the work.
    while (!bytes.empty()) {
      const ssize_t n = ::write(STDERR_FILENO, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  };
  terminal.say = [](const std::string& line) { log::info("{}", line); };
  terminal.clock = &steady_seconds;
  return terminal;
}

// The bars alive, and whether a log line is just being written. Never destroyed: a thread may log while the process
// ends.
struct ProgressScreen {
  std::mutex mutex;
  std::vector<Progress*> bars;
  int log_lines = 0;

  static ProgressScreen& get() {
    static auto* screen = new ProgressScreen;
    return *screen;
  }

  // The bar on the terminal, or null.
  Progress* top() {
    for (auto bar = bars.rbegin(); bar != bars.rend(); ++bar) {
      if ((*bar)->terminal_.interactive) return *bar;
    }
    return nullptr;
  }

  void erase() {
    if (Progress* bar = top(); bar != nullptr && bar->shown_) {
      bar->terminal_.write(kEraseLine);
      bar->shown_ = false;
    }
  }

  void add(Progress* bar) {
    const std::lock_guard lock(mutex);
    erase();
    bars.push_back(bar);
    if (bars.size() == 1) log::set_transient_line(before_log_line, after_log_line);
    if (top() == bar && log_lines == 0) bar->draw(bar->started_);
  }

  void remove(Progress* bar) {
    const std::lock_guard lock(mutex);
    if (top() == bar) erase();
    std::erase(bars, bar);
    bar->finished_ = true;
    if (bars.empty()) {
      log::set_transient_line(nullptr, nullptr);
      log_lines = 0;
    }
  }

  static void before_log_line() {
    ProgressScreen& screen = get();
    const std::lock_guard lock(screen.mutex);
    ++screen.log_lines;
    screen.erase();
  }

  static void after_log_line() {
    ProgressScreen& screen = get();
    const std::lock_guard lock(screen.mutex);
    screen.log_lines = std::max(0, screen.log_lines - 1);
    Progress* bar = screen.top();
    if (bar != nullptr && screen.log_lines == 0) bar->draw(bar->terminal_.clock());
  }
};

Progress::Progress(ProgressOptions options, ProgressTerminal terminal)
    : options_(std::move(options)),
      terminal_(std::move(terminal)),
      started_(terminal_.clock()),
      done_(options_.start),
      next_look_(started_),
      measured_at_(started_),
      measured_done_(options_.start),
      said_at_(started_) {
  if (options_.total > 0) said_tenths_ = options_.start * 10 / options_.total;
  ProgressScreen::get().add(this);
}

Progress::~Progress() {
  if (!finished_) ProgressScreen::get().remove(this);
}

void Progress::advance(uint64_t units) {
  done_.fetch_add(units, std::memory_order_relaxed);
  refresh();
}

void Progress::set(uint64_t done) {
  done_.store(done, std::memory_order_relaxed);
  refresh();
}

void Progress::note(std::string text) {
  {
    const std::lock_guard lock(ProgressScreen::get().mutex);
    note_ = std::move(text);
  }
  refresh();
}

void Progress::measure(double now) {
  const double seconds = now - measured_at_;
  if (seconds <= 0) return;
  const uint64_t done = done_;
  const double fading = std::exp(-seconds / kMemory);
  recent_units_ = recent_units_ * fading + static_cast<double>(done) - static_cast<double>(measured_done_);
  recent_seconds_ = recent_seconds_ * fading + seconds;
  measured_at_ = now;
  measured_done_ = done;
}

ProgressView Progress::view(double now) const {
  ProgressView view{options_.label, options_.unit, done_, options_.total, {}, {}, now - started_, note_};
  if (recent_units_ > 0) {
    view.rate = recent_units_ / recent_seconds_;
    if (view.total > 0) view.eta = static_cast<double>(view.total - std::min(view.total, view.done)) / *view.rate;
  }
  return view;
}

void Progress::draw(double now) {
  // One column stays free: a full line makes some terminals go to the next one.
  const std::string bar = render_bar(view(now), terminal_.columns() - 1, terminal_.color, terminal_.unicode);
  terminal_.write(std::string(kEraseLine) + bar);
  shown_ = true;
}

void Progress::refresh() {
  const double now = terminal_.clock();
  if (now < next_look_.load(std::memory_order_relaxed)) return;
  std::string line;
  {
    ProgressScreen& screen = ProgressScreen::get();
    const std::unique_lock lock(screen.mutex, std::try_to_lock);
    if (!lock || finished_ || now < next_look_) return;
    next_look_ = now + kRedrawSeconds;
    measure(now);
    if (terminal_.interactive) {
      if (screen.top() == this && screen.log_lines == 0) draw(now);
      return;
    }
    const uint64_t tenths = options_.total > 0 ? measured_done_ * 10 / options_.total : 0;
    const double silence = now - said_at_;
    const bool due = silence >= std::max(10.0, (now - started_) / 20) || (tenths > said_tenths_ && silence >= 1);
    if (!due || !options_.plain_lines) return;
    said_at_ = now;
    said_tenths_ = tenths;
    line = render_line(view(now));
  }
  // Outside the lock: logging asks for it.
  terminal_.say(line);
}

void Progress::finish() {
  if (finished_) return;
  ProgressScreen::get().remove(this);
  if (!options_.summary || (!terminal_.interactive && !options_.plain_lines)) return;
  ProgressView last = view(terminal_.clock());
  const double worked = static_cast<double>(last.done) - static_cast<double>(options_.start);
  last.rate.reset();
  if (last.elapsed > 0 && worked > 0) last.rate = worked / last.elapsed;
  terminal_.say(render_summary(last));
}

}  // namespace t6
