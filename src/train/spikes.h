// Finds steps whose loss or gradient norm leaps above what the run has shown so far, and what a run does about them.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/config.h"

namespace t6 {

// log: say it and apply the step; skip: say it and apply nothing; stop: end the run, exit 5.
enum class SpikeAction { ignore, log, skip, stop };
constexpr std::array<std::string_view, 4> config_names(SpikeAction) {
  return {"ignore", "log", "skip", "stop"};
}

enum class NonFiniteAction { stop, skip };
constexpr std::array<std::string_view, 2> config_names(NonFiniteAction) {
  return {"stop", "skip"};
}

// Section `spikes` of a run's config.
struct SpikeSection {
  SpikeAction action = SpikeAction::log;
  double sigma = 6;
  int64_t window = 128;
  NonFiniteAction nonfinite = NonFiniteAction::stop;
  int64_t max_skipped = 10;

  template <class V>
  void fields(V& v) {
    v.field("action", action, "on a step whose loss or gradient norm leaps; skip: it is not applied; stop: exit 5");
    v.field("sigma", sigma, "a leap: this many standard deviations of the logarithm above the mean",
            config::range(2, 1000));
    v.field("window", window, "steps that mean and deviation look back, and steps before the first verdict",
            config::range(8, 1e6));
    v.field("nonfinite", nonfinite, "on a loss or gradient norm that is not finite; it is never applied");
    v.field("max_skipped", max_skipped, "steps skipped in a row after which the run stops with exit 5",
            config::range(0, 1e6));
  }
  bool operator==(const SpikeSection&) const = default;
};

}  // namespace t6

namespace t6::train {

// The largest loss and gradient norm that are no spike.
struct SpikeLimits {
  double loss;
  double norm;
  // Also for what is not finite.
  bool exceeded_by(double loss_now, double norm_now) const { return !(loss_now <= loss) || !(norm_now <= norm); }
};

// What is to be done about a step.
struct SpikeVerdict {
  bool spike = false;    // also for what is not finite
  bool skipped = false;  // it was not applied, and the run goes on
  bool ends = false;     // the run ends: exit 5
  std::string text;      // for the log, or the error; empty when there is nothing to say
};

// Keeps, of the logarithms x of loss and of norm (their noise is relative), exponential means with weight a = 1 /
// window:
//   d = x - mean;  mean += a d;  variance = (1 - a) (variance + a d^2)
// with a = 1 / n for the first `window` values. Limits are exp(mean + sigma * deviation), the deviation being at least
// kLeastDeviation, so that a run without noise has no spikes of rounding. They depend on earlier steps alone: known
// before a step, the same on every rank.
//
// What was not applied leaves no trace in the statistics. A spike that was applied enters as kClip deviations above the
// mean, no more: one alone changes little, but a level that stays is the new normal within some `window` steps. No
// clock and no random number: a resumed detector goes on bit for bit.
class SpikeDetector {
 public:
  static constexpr double kLeastDeviation = 0.01, kClip = 3;

  explicit SpikeDetector(const SpikeSection& section) : section_(section) {}

  // For the next step; infinite until `window` steps were observed. Under action `ignore` always.
  SpikeLimits limits() const;

  // What the step that limits() was for came to; true when it was a spike or not finite. `applied`: the parameters were
  // updated by it.
  bool observe(double loss, double norm, bool applied);

  // "loss 9.31 (limit 4.02) leapt; gradient norm 1.21 (limit 1.37)", for a message about the next step; empty for no
  // spike.
  std::string describe(double loss, double norm) const;

  // Whether a step may come to be not applied while the run goes on, or ends the run by limits: then the results of all
  // steps before it must be known.
  bool decides() const;
  // What keeps the next step from being applied: limits() under actions skip and stop, otherwise nothing.
  SpikeLimits hard_limits() const;
  // Observes step number `step`, and says what is to be done. A step that hard_limits() stopped is a spike even where
  // rounding on the way to the host hides it.
  SpikeVerdict judge(int64_t step, double loss, double norm, bool applied);

  int64_t spikes() const { return spikes_; }    // all told, with those not finite
  int64_t skipped() const { return skipped_; }  // observed as not applied, all told
  int64_t skipped_in_a_row() const { return in_a_row_; }
  // More than max_skipped in a row: the run must end.
  bool exhausted() const { return in_a_row_ > section_.max_skipped; }

  // For the scalars of a checkpoint; numbers survive JSON bit for bit.
  nlohmann::json state() const;
  // Of state(). Error(checkpoint) naming `source` for anything else.
  void restore(const nlohmann::json& state, const std::string& source);

 private:
  struct Track {
    double mean = 0, variance = 0;
    double limit(double sigma) const;
    void add(double x, double weight);
  };

  SpikeSection section_;
  int64_t observed_ = 0;  // that entered the statistics
  int64_t spikes_ = 0, skipped_ = 0, in_a_row_ = 0;
  Track loss_, norm_;
};

}  // namespace t6::train
