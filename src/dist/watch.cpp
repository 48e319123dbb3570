#include "dist/watch.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "base/error.h"

namespace t6::dist {
namespace {

bool before(const Report& a, const Report& b) {
  return std::tie(a.step, a.calls) < std::tie(b.step, b.calls);
}

}  // namespace

std::string describe(const Report& report) {
  if (report.step < 0 && report.phase.empty()) return "the start, before its first step";
  if (report.step < 0) return fmt::format("the start, {}", report.phase);
  return fmt::format("step {}, {}", report.step, report.phase.empty() ? "at its beginning" : report.phase);
}

Watch::Watch(std::vector<Seat> seats, double now)
    : seats_(std::move(seats)), states_(seats_.size()), floor_since_(now) {
  for (State& state : states_) state.progress = state.heard = now;
}

void Watch::on_report(int rank, const Report& report, double now) {
  State& state = this->state(rank);
  state.heard = now;
  // A rank that was stopped, and goes on, counts from anew although it is where it was.
  const double since = now - report.age;
  state.progress = report.same_place(state.report) ? std::max(state.progress, since) : since;
  state.report = report;
}

void Watch::on_goodbye(int rank) {
  state(rank).gone = true;
}

void Watch::forgive(double seconds) {
  for (State& state : states_) {
    state.progress += seconds;
    state.heard += seconds;
  }
  floor_since_ += seconds;
}

bool Watch::all_gone() const {
  return std::all_of(states_.begin(), states_.end(), [](const State& state) { return state.gone; });
}

Watch::Verdict Watch::hang(double limit, double silence, double now) {
  std::vector<int> living, silent, slowest;
  for (int rank = 0; rank < static_cast<int>(states_.size()); ++rank) {
    if (!gone(rank)) living.push_back(rank);
  }
  if (living.empty()) return {};
  const int last =
      *std::min_element(living.begin(), living.end(), [&](int a, int b) { return before(report(a), report(b)); });
  double progress = 0;
  for (const int rank : living) {
    if (now - state(rank).heard > silence) silent.push_back(rank);
    if (!report(rank).same_place(report(last))) continue;
    slowest.push_back(rank);
    progress = std::max(progress, state(rank).progress);
  }
  // Ranks that waited for one that has now passed them get their time, too.
  if (!report(last).same_place(floor_)) {
    floor_ = report(last);
    floor_since_ = now;
  }
  if (now - std::max(progress, floor_since_) <= limit) return {};

  if (silent.empty() && slowest.size() == living.size() && living.size() > 1) {
    return {
        fmt::format("all ranks hang at {}: none went on for {:.1f} s, the watchdog's limit is {:g} s. They stand at "
                    "the same place: the network or the storage under them does not answer, or the limit is too "
                    "short for it",
                    describe(report(last)), now - progress, limit),
        {}};
  }
  // Whoever waits for a rank that is stopped may stand before it or with it.
  const std::vector<int>& hung = silent.empty() ? slowest : silent;
  return {text_of_hung(hung, !silent.empty(), limit, now) + text_of_others(hung, now), silent};
}

std::string Watch::text_of_hung(const std::vector<int>& hung, bool silent, double limit, double now) const {
  constexpr size_t kMaxNamed = 8;
  std::string text;
  for (size_t i = 0; i < std::min(hung.size(), kMaxNamed); ++i) {
    const State& at = state(hung[i]);
    text += fmt::format(
        "{}{} hangs{} at {}: {} for {:.1f} s, the watchdog's limit is {:g} s", i == 0 ? "" : "\n",
        name_rank(hung[i], seats_[static_cast<size_t>(hung[i])]), silent ? ", last seen" : "", describe(at.report),
        silent ? "it sends nothing (stopped, or its host cannot be reached)" : "it lives and does not go on",
        now - (silent ? at.heard : at.progress), limit);
  }
  if (hung.size() > kMaxNamed) {
    text += "\nso do " + list_ranks(std::vector<int>(hung.begin() + kMaxNamed, hung.end()));
  }
  return text;
}

std::string Watch::text_of_others(const std::vector<int>& hung, double now) const {
  std::map<std::tuple<int64_t, int64_t, std::string>, std::vector<int>> places;
  std::vector<int> ended;
  for (int rank = 0; rank < static_cast<int>(states_.size()); ++rank) {
    const Report& at = report(rank);
    if (gone(rank)) {
      ended.push_back(rank);
    } else if (std::find(hung.begin(), hung.end(), rank) == hung.end()) {
      places[{at.step, at.calls, at.phase}].push_back(rank);
    }
  }
  std::string text;
  for (const auto& [place, ranks] : places) {
    double since = 0;
    for (const int rank : ranks) since = std::max(since, now - state(rank).progress);
    text += fmt::format("\n  {} arrived at {} {:.1f} s ago", list_ranks(ranks), describe(report(ranks.front())), since);
  }
  if (!ended.empty()) text += fmt::format("\n  {} ended well", list_ranks(ended));
  return text;
}

}  // namespace t6::dist
