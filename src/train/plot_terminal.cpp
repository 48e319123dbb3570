// Plots of characters: each is two by four dots of Braille, or one mark where there is no Unicode.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "train/plot.h"
#include "train/plot_axis.h"

namespace t6::train {
namespace {

constexpr std::array<int, 6> kColors{36, 33, 32, 35, 34, 31};
constexpr std::string_view kMarks = "*o+x#@%&";
constexpr int kLabelWidth = 8;

std::string utf8(uint32_t code) {  // of the Braille block, three bytes
  return {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3F)),
          static_cast<char>(0x80 | (code & 0x3F))};
}

// Dots of one or several curves; a character belongs to the last curve that touched it.
class Canvas {
 public:
  // Braille where one colour or colours can tell the curves apart; one dot a character otherwise.
  Canvas(int columns, int rows, bool braille)
      : columns_(columns),
        rows_(rows),
        braille_(braille),
        dots_(static_cast<size_t>(columns * rows)),
        owner_(dots_.size(), -1) {}

  int width() const { return braille_ ? columns_ * 2 : columns_; }
  int height() const { return braille_ ? rows_ * 4 : rows_; }

  void set(int x, int y, int curve) {
    if (x < 0 || y < 0 || x >= width() || y >= height()) return;
    // Bits of a Braille character: 1 2 3 7 down the left side, 4 5 6 8 down the right one.
    constexpr std::array<std::array<uint8_t, 4>, 2> kBits{{{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}}};
    const int column = braille_ ? x / 2 : x, row = braille_ ? y / 4 : y;
    const auto at = static_cast<size_t>(row * columns_ + column);
    dots_[at] |= braille_ ? kBits[static_cast<size_t>(x % 2)][static_cast<size_t>(y % 4)] : 1;
    owner_[at] = curve;
  }

  std::string row(int row, bool color) const {
    std::string line;
    for (int column = 0; column < columns_; ++column) {
      const auto at = static_cast<size_t>(row * columns_ + column);
      if (owner_[at] < 0) {
        line += ' ';
        continue;
      }
      const auto curve = static_cast<size_t>(owner_[at]);
      const std::string mark = braille_ ? utf8(0x2800U + dots_[at]) : std::string(1, kMarks[curve % kMarks.size()]);
      line += color ? fmt::format("\x1b[{}m{}\x1b[0m", kColors[curve % kColors.size()], mark) : mark;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
  }

 private:
  int columns_, rows_;
  bool braille_;
  std::vector<uint8_t> dots_;
  std::vector<int> owner_;
};

void draw_line(Canvas& canvas, const std::vector<CurvePoint>& points, PlotAxis axis, const Range& x, const Range& y,
               int curve) {
  int from_x = 0, from_y = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    const int to_x =
        static_cast<int>(std::lround((x_of(points[i], axis) - x.low) / (x.high - x.low) * (canvas.width() - 1)));
    const double height = (y.high - y_of(points[i], axis)) / (y.high - y.low) * (canvas.height() - 1);
    // Far above the frame is as good as just above it.
    const int to_y = static_cast<int>(std::lround(std::clamp(height, -1e4, 1e4)));
    const int steps = i == 0 ? 0 : std::max(std::abs(to_x - from_x), std::abs(to_y - from_y));
    for (int s = 0; s <= steps; ++s) {
      const double part = steps == 0 ? 1 : static_cast<double>(s) / steps;
      const int sx = i == 0 ? to_x : static_cast<int>(std::lround(from_x + part * (to_x - from_x)));
      const int sy = i == 0 ? to_y : static_cast<int>(std::lround(from_y + part * (to_y - from_y)));
      canvas.set(sx, sy, curve);
    }
    from_x = to_x;
    from_y = to_y;
  }
}

std::string legend_line(const Curve& curve, PlotAxis axis, size_t i, bool color, bool braille, size_t width) {
  const std::string mark = braille ? "⣿⣿" : std::string(2, kMarks[i % kMarks.size()]);
  std::string values;
  if (axis == PlotAxis::lengths && !curve.train.empty()) {
    values = fmt::format("  {:.3g} to {:.3g}", curve.train.front().loss, curve.train.back().loss);
  } else if (!curve.train.empty()) {
    values += fmt::format("  train {:.4f}", smooth(curve.train, smoothing_reach(curve.train.size())).back().loss);
  }
  if (!curve.validation.empty()) values += fmt::format("  val {:.4f}", curve.validation.back().loss);
  const size_t room = width > values.size() + kLabelWidth + 6 ? width - values.size() - kLabelWidth - 6 : 1;
  std::string label;
  size_t characters = 0;
  for (const char c : curve.label) {
    if ((c & 0xC0) != 0x80 && ++characters > room) break;
    label += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return fmt::format("{:{}}{} {}{}\n", "", kLabelWidth + 2,
                     color ? fmt::format("\x1b[{}m{}\x1b[0m", kColors[i % kColors.size()], mark) : mark, label, values);
}

}  // namespace

std::string draw_terminal(std::span<const Curve> curves, PlotAxis axis, int columns, int rows, bool color,
                          bool unicode) {
  T6_CHECK(!curves.empty(), "[draw_terminal] expected a curve, got none");
  columns = std::max(columns, 40);
  rows = std::max(rows, 8);
  const bool braille = unicode && (color || curves.size() == 1);
  const Range x = x_range(curves, axis);
  const Range y = y_range(curves, axis, x);
  const int plot_columns = columns - kLabelWidth - 2, plot_rows = rows - 2;
  Canvas canvas(plot_columns, plot_rows, braille);
  // The first curve is drawn last: on top.
  for (size_t i = curves.size(); i-- > 0;) {
    const Curve& curve = curves[i];
    const auto line = curve.train.empty() ? curve.validation : smooth(curve.train, smoothing_reach(curve.train.size()));
    draw_line(canvas, line, axis, x, y, static_cast<int>(i));
  }

  std::vector<std::string> y_labels(static_cast<size_t>(plot_rows));
  const Ticks ys = ticks_of(y, std::max(2, plot_rows / 3), axis);
  for (size_t i = 0; i < ys.values.size(); ++i) {
    const double row = (y.high - ys.values[i]) / (y.high - y.low) * (plot_rows - 1);
    y_labels[static_cast<size_t>(std::clamp<long>(std::lround(row), 0, plot_rows - 1))] = ys.labels[i];
  }
  std::string out;
  for (int row = 0; row < plot_rows; ++row) {
    const std::string& label = y_labels[static_cast<size_t>(row)];
    const char* axis_mark = label.empty() ? (unicode ? "│" : "|") : (unicode ? "┤" : "+");
    out += fmt::format("{:>{}} {}{}\n", label, kLabelWidth, axis_mark, canvas.row(row, color));
  }
  // Labels of x stand under their ticks and never touch.
  std::string ruler, labels(static_cast<size_t>(columns), ' ');
  const Ticks xs = ticks_of(x, std::max(2, plot_columns / 14), axis);
  std::vector<bool> is_tick(static_cast<size_t>(plot_columns));
  size_t free_from = 0;
  for (size_t i = 0; i < xs.values.size(); ++i) {
    const auto column =
        static_cast<size_t>(std::lround((xs.values[i] - x.low) / (x.high - x.low) * (plot_columns - 1)));
    is_tick[column] = true;
    const size_t size = xs.labels[i].size();
    const size_t middle = column + kLabelWidth + 2;
    const size_t at = std::min(middle - std::min(middle, size / 2), labels.size() - size);
    if (at < free_from) continue;
    labels.replace(at, size, xs.labels[i]);
    free_from = at + size + 1;
  }
  for (const bool tick : is_tick) ruler += tick ? (unicode ? "┬" : "+") : (unicode ? "─" : "-");
  out += fmt::format("{:{}}{}{}\n", "", kLabelWidth + 1, unicode ? "└" : "+", ruler);
  constexpr std::array<std::string_view, 3> kNames{"step", "tok", "cached"};
  const std::string_view name = kNames[static_cast<size_t>(axis)];
  labels.replace(kLabelWidth - name.size(), name.size(), name);
  labels.erase(labels.find_last_not_of(' ') + 1);
  out += labels + "\n";
  for (size_t i = 0; i < curves.size(); ++i) {
    out += legend_line(curves[i], axis, i, color, braille, static_cast<size_t>(columns));
  }
  return out;
}

std::string sparkline(std::span<const double> values, int width, bool unicode) {
  constexpr std::array<std::string_view, 8> kLevels{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::vector<double> finite;
  std::copy_if(values.begin(), values.end(), std::back_inserter(finite), [](double v) { return std::isfinite(v); });
  const size_t shares = std::min(finite.size(), static_cast<size_t>(std::max(width, 0)));
  std::vector<double> means;
  for (size_t i = 0; i < shares; ++i) {
    const size_t begin = finite.size() * i / shares, end = finite.size() * (i + 1) / shares;
    double sum = 0;
    for (size_t k = begin; k < end; ++k) sum += finite[k];
    means.push_back(sum / static_cast<double>(end - begin));
  }
  if (means.empty()) return {};
  const auto [low, high] = std::minmax_element(means.begin(), means.end());
  std::string line;
  for (const double mean : means) {
    const double level = *high > *low ? (mean - *low) / (*high - *low) : 0.5;
    if (unicode) {
      line += kLevels[static_cast<size_t>(std::lround(level * 7))];
    } else {
      line += static_cast<char>('0' + std::lround(level * 9));
    }
  }
  return line;
}

}  // namespace t6::train
