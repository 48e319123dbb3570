#include "train/plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/io.h"
#include "train/plot_axis.h"

namespace t6::train {

// Beyond it sums and differences of losses could overflow; no training comes near.
static constexpr double kLargestLoss = 1e100;

Curve read_curve(const std::filesystem::path& path) {
  std::error_code ignored;  // reading the file says what is wrong with the path
  const bool is_folder = std::filesystem::is_directory(path, ignored);
  const std::filesystem::path file = is_folder ? path / "metrics.jsonl" : path;
  Curve curve;
  const auto folder = std::filesystem::absolute(file, ignored).lexically_normal().parent_path();
  curve.label = folder.filename().string();
  const std::string text = io::read_text(file, uint64_t{4} << 30);
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    ++number;
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
      if (at > text.size()) break;
      fail(ExitCode::data, "{}:{}: expected a JSON object a line, as t6 train writes it, got '{}'", file.string(),
           number, line.substr(0, 60));
    }
    const auto kind = json.find("kind"), step = json.find("step"), loss = json.find("loss"),
               tokens = json.find("tokens");
    if (kind == json.end() || step == json.end() || !step->is_number_integer() || loss == json.end()) continue;
    if (!loss->is_number() || std::abs(loss->get<double>()) > kLargestLoss) continue;  // null: not finite
    const uint64_t seen = tokens != json.end() && tokens->is_number_unsigned() ? tokens->get<uint64_t>() : 0;
    const CurvePoint point{step->get<int64_t>(), seen, loss->get<double>()};
    if (*kind == "train") curve.train.push_back(point);
    if (*kind == "validation") curve.validation.push_back(point);
  }
  if (curve.train.empty() && curve.validation.empty()) {
    fail(ExitCode::data, "{} holds no loss yet: expected lines of kind train or validation", file.string());
  }
  return curve;
}

size_t smoothing_reach(size_t points) {
  return points / 100;
}

std::vector<CurvePoint> smooth(std::span<const CurvePoint> points, size_t reach) {
  std::vector<CurvePoint> result(points.begin(), points.end());
  if (reach == 0) return result;
  std::vector<double> sums(points.size() + 1);  // sums[i] is that of the i points before i
  for (size_t i = 0; i < points.size(); ++i) sums[i + 1] = sums[i] + points[i].loss;
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t before = std::min(reach, i / 4), after = std::min(before, points.size() - 1 - i);
    result[i].loss = (sums[i + after + 1] - sums[i - before]) / static_cast<double>(before + after + 1);
  }
  return result;
}

double x_of(const CurvePoint& point, PlotAxis axis) {
  if (axis == PlotAxis::lengths) return std::log2(static_cast<double>(point.step));
  return axis == PlotAxis::steps ? static_cast<double>(point.step) : static_cast<double>(point.tokens);
}

double y_of(const CurvePoint& point, PlotAxis axis) {
  return axis == PlotAxis::lengths ? std::log2(point.loss) : point.loss;
}

namespace {

// Of all points, with a little room.
Range logarithmic_range(std::span<const Curve> curves, double (*of)(const CurvePoint&, PlotAxis), double room) {
  Range range{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (const Curve& curve : curves) {
    for (const auto* points : {&curve.train, &curve.validation}) {
      for (const CurvePoint& point : *points) {
        const double value = of(point, PlotAxis::lengths);
        range = {std::min(range.low, value), std::max(range.high, value)};
      }
    }
  }
  return {range.low - room, range.high + room};
}

}  // namespace

Range x_range(std::span<const Curve> curves, PlotAxis axis) {
  if (axis == PlotAxis::lengths) return logarithmic_range(curves, x_of, 0.1);
  Range range{0, 0};
  for (const Curve& curve : curves) {
    for (const auto* points : {&curve.train, &curve.validation}) {
      for (const CurvePoint& point : *points) range.high = std::max(range.high, x_of(point, axis));
    }
  }
  // A little room, so that a last point or tick is not at the very edge.
  range.high = range.high > 0 ? range.high * 1.015 : 1;
  return range;
}

Range y_range(std::span<const Curve> curves, PlotAxis axis, const Range& x) {
  if (axis == PlotAxis::lengths) return logarithmic_range(curves, y_of, 0.3);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Range all{kInfinity, -kInfinity}, late = all;
  const double start = x.high * 0.03;
  for (const Curve& curve : curves) {
    const std::array<std::vector<CurvePoint>, 2> lines{smooth(curve.train, smoothing_reach(curve.train.size())),
                                                       curve.validation};
    for (const auto& points : lines) {
      for (const CurvePoint& point : points) {
        all = {std::min(all.low, point.loss), std::max(all.high, point.loss)};
        if (x_of(point, axis) >= start) late = {std::min(late.low, point.loss), std::max(late.high, point.loss)};
      }
    }
  }
  Range range = all;
  if (late.high > late.low && all.high - all.low > 2 * (late.high - late.low)) range.high = late.high;
  // A flat curve gets a range too.
  const double room = std::max((range.high - range.low) * 0.06, std::max(1e-3, std::abs(range.high) * 1e-3));
  return {range.low - room, range.high + room};
}

Ticks ticks_of(const Range& range, int count) {
  const double rough = (range.high - range.low) / std::max(1, count);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.5, 2.0, 1.0}) {
    if (factor * power >= rough * 0.999) step = factor * power;
  }
  Ticks ticks;
  for (double n = std::ceil(range.low / step - 1e-9); n * step <= range.high + step * 1e-9; ++n)
    ticks.values.push_back(n * step);
  // One prefix and one number of decimals for the whole axis.
  constexpr std::array<std::string_view, 5> kPrefixes{"", "k", "M", "B", "T"};
  const double largest = std::max(std::abs(range.low), std::abs(range.high));
  double unit = 1;
  size_t prefix = 0;
  while (largest >= unit * 2000 && prefix + 1 < kPrefixes.size()) {
    unit *= 1000;
    ++prefix;
  }
  int decimals = 0;
  for (double scaled = step / unit; decimals < 9 && std::abs(scaled - std::round(scaled)) > 1e-6 * scaled; scaled *= 10)
    ++decimals;
  for (const double value : ticks.values) {
    const double shown = std::abs(value) < step * 1e-9 ? 0 : value / unit;
    ticks.labels.push_back(shown == 0 && prefix > 0 ? "0"
                                                    : fmt::format("{:.{}f}{}", shown, decimals, kPrefixes[prefix]));
  }
  return ticks;
}

Ticks power_ticks_of(const Range& range, int count) {
  const double stride = std::max(1.0, std::ceil((range.high - range.low) / std::max(1, count)));
  constexpr std::array<std::string_view, 5> kPrefixes{"", "k", "M", "B", "T"};
  Ticks ticks;
  for (double power = std::ceil(range.low / stride) * stride; power <= range.high; power += stride) {
    double value = std::exp2(power);
    size_t prefix = 0;
    // Lengths are counted in units of 1024.
    for (; value >= 1024 && prefix + 1 < kPrefixes.size(); value /= 1024) ++prefix;
    ticks.values.push_back(power);
    ticks.labels.push_back(fmt::format("{:.4g}{}", value, kPrefixes[prefix]));
  }
  return ticks;
}

}  // namespace t6::train
