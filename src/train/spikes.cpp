#include "train/spikes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace t6::train {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A loss or norm of 0 has no logarithm.
double logarithm(double value) {
  return std::log(std::max(value, 1e-12));
}

}  // namespace

double SpikeDetector::Track::limit(double sigma) const {
  return mean + sigma * std::max(std::sqrt(variance), kLeastDeviation);
}

void SpikeDetector::Track::add(double x, double weight) {
  const double d = x - mean;
  mean += weight * d;
  variance = (1 - weight) * (variance + weight * d * d);
}

SpikeLimits SpikeDetector::limits() const {
  if (section_.action == SpikeAction::ignore || observed_ < section_.window) {
    // The largest finite number: what is not finite exceeds it.
    return {std::numeric_limits<double>::max(), std::numeric_limits<double>::max()};
  }
  const double largest = std::numeric_limits<double>::max();
  return {std::min(std::exp(loss_.limit(section_.sigma)), largest),
          std::min(std::exp(norm_.limit(section_.sigma)), largest)};
}

bool SpikeDetector::observe(double loss, double norm, bool applied) {
  const bool spike = limits().exceeded_by(loss, norm);
  spikes_ += spike ? 1 : 0;
  skipped_ += applied ? 0 : 1;
  in_a_row_ = applied ? 0 : in_a_row_ + 1;
  if (!applied || !std::isfinite(loss) || !std::isfinite(norm)) return spike;
  const double weight = 1 / static_cast<double>(std::min(observed_ + 1, section_.window));
  const auto add = [&](Track& track, double value) {
    const double x = logarithm(value);
    track.add(x > track.limit(section_.sigma) && spike ? std::min(x, track.limit(kClip)) : x, weight);
  };
  add(loss_, loss);
  add(norm_, norm);
  ++observed_;
  return spike;
}

std::string SpikeDetector::describe(double loss, double norm) const {
  const SpikeLimits limit = limits();
  if (!limit.exceeded_by(loss, norm)) return {};
  const auto text = [](double value, double largest) {
    return largest < std::numeric_limits<double>::max() ? fmt::format("{:.4g} (limit {:.4g})", value, largest)
                                                        : fmt::format("{:.4g}", value);
  };
  if (!std::isfinite(loss) || !std::isfinite(norm)) {
    return fmt::format("loss {} and gradient norm {} are not both finite", text(loss, limit.loss),
                       text(norm, limit.norm));
  }
  // What leapt comes first.
  return loss > limit.loss
             ? fmt::format("loss {} leapt; gradient norm {}", text(loss, limit.loss), text(norm, limit.norm))
             : fmt::format("gradient norm {} leapt; loss {}", text(norm, limit.norm), text(loss, limit.loss));
}

bool SpikeDetector::decides() const {
  return section_.action == SpikeAction::skip || section_.action == SpikeAction::stop ||
         section_.nonfinite == NonFiniteAction::skip;
}

SpikeLimits SpikeDetector::hard_limits() const {
  if (section_.action == SpikeAction::skip || section_.action == SpikeAction::stop) return limits();
  return {kInfinity, kInfinity};
}

SpikeVerdict SpikeDetector::judge(int64_t step, double loss, double norm, bool applied) {
  const bool finite = std::isfinite(loss) && std::isfinite(norm);
  std::string what = describe(loss, norm);
  if (what.empty()) what = fmt::format("loss {:.9g} and gradient norm {:.9g} are at the limit", loss, norm);
  SpikeVerdict verdict;
  verdict.spike = observe(loss, norm, applied) || !applied;
  if (!verdict.spike) return verdict;
  verdict.text = fmt::format("step {}: {}", step, what);
  if (applied) {
    verdict.text += ", a spike; it was applied (spikes.action: log)";
    return verdict;
  }
  const bool stop = finite ? section_.action == SpikeAction::stop : section_.nonfinite == NonFiniteAction::stop;
  const char* key = finite ? "action" : "nonfinite";
  verdict.text += finite ? ", a spike; nothing of it was applied" : "; nothing of it was applied";
  verdict.ends = stop || exhausted();
  verdict.skipped = !verdict.ends;
  if (stop) {
    verdict.text += fmt::format(" (spikes.{}: stop)", key);
  } else if (verdict.ends) {
    verdict.text +=
        fmt::format(", as of {} steps in a row, more than spikes.max_skipped: {}", in_a_row_, section_.max_skipped);
  } else {
    verdict.text += fmt::format(" (spikes.{}: skip; {} in a row, {} of the run)", key, in_a_row_, skipped_);
  }
  return verdict;
}

nlohmann::json SpikeDetector::state() const {
  return {{"observed", observed_},
          {"spikes", spikes_},
          {"skipped", skipped_},
          {"in_a_row", in_a_row_},
          {"loss", {loss_.mean, loss_.variance}},
          {"norm", {norm_.mean, norm_.variance}}};
}

void SpikeDetector::restore(const nlohmann::json& state, const std::string& source) {
  try {
    SpikeDetector read(section_);
    // The library's own conversions take any number for any other.
    const auto count = [&](const char* name) {
      constexpr int64_t kMost = int64_t{1} << 53;
      const nlohmann::json& value = state.at(name);
      if (!value.is_number_integer() || value < 0 || value > kMost) throw std::out_of_range(name);
      return value.get<int64_t>();
    };
    const auto track = [&](const char* name) {
      const nlohmann::json& pair = state.at(name);
      const Track one{pair.at(0).get<double>(), pair.at(1).get<double>()};
      if (!std::isfinite(one.mean) || !(one.variance >= 0 && one.variance < kInfinity)) throw std::out_of_range(name);
      return one;
    };
    read.observed_ = count("observed");
    read.spikes_ = count("spikes");
    read.skipped_ = count("skipped");
    read.in_a_row_ = count("in_a_row");
    read.loss_ = track("loss");
    read.norm_ = track("norm");
    *this = read;
  } catch (const std::exception& error) {
    fail(ExitCode::checkpoint, "{}: the state of the spike detector is not one ({})", source, error.what());
  }
}

}  // namespace t6::train
