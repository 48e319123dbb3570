// The SVG plot. Text widths are estimates: an SVG viewer picks the font.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "base/error.h"
#include "train/plot.h"
#include "train/plot_axis.h"

namespace t6::train {
namespace {

// Okabe and Ito's colours for all kinds of colour vision, without yellow, then four more.
constexpr std::array<const char*, 11> kColors{"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
                                              "#4D4D4D", "#882255", "#44AA99", "#332288", "#999933"};
constexpr double kCharacter = 6.9;  // width of one at font size 12, in pixels
constexpr size_t kLongestLabel = 32;
constexpr std::array<const char*, 3> kAxisNames{"step", "tokens", "cached tokens"};  // by PlotAxis
constexpr size_t kMostPoints = 1200;                                                 // of one line: about one a pixel

std::string escape(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      // Control characters have no place in XML.
      default:
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return result;
}

// Cut at a character of UTF-8.
std::string shorten(const std::string& label) {
  size_t seen = 0;
  for (size_t i = 0; i < label.size(); ++i) {
    if ((label[i] & 0xC0) == 0x80) continue;
    if (seen++ == kLongestLabel) return label.substr(0, i) + "…";
  }
  return label;
}

size_t characters_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// At most `most` points: the lowest and the highest of each of most / 2 equal shares, in their order.
std::vector<CurvePoint> thin(std::span<const CurvePoint> points, size_t most) {
  if (points.size() <= most) return {points.begin(), points.end()};
  std::vector<CurvePoint> result;
  const size_t shares = most / 2;
  for (size_t i = 0; i < shares; ++i) {
    const auto share =
        points.subspan(points.size() * i / shares, points.size() * (i + 1) / shares - points.size() * i / shares);
    auto [low, high] = std::minmax_element(share.begin(), share.end(),
                                           [](const CurvePoint& a, const CurvePoint& b) { return a.loss < b.loss; });
    if (high < low) std::swap(low, high);
    result.push_back(*low);
    if (high != low) result.push_back(*high);
  }
  if (result.back().step != points.back().step) result.push_back(points.back());
  return result;
}

class SvgPlot {
 public:
  SvgPlot(std::span<const Curve> curves, const PlotOptions& options)
      : curves_(curves), options_(options), x_(x_range(curves, options.x)), y_(y_range(curves, options.x, x_)) {
    size_t longest = 24;  // "training 3.2145, validation 3.1987" in small print
    for (const Curve& curve : curves) longest = std::max(longest, characters_of(shorten(curve.label)));
    legend_ = 60 + static_cast<double>(longest) * kCharacter;
    height_ = std::max(options.height, static_cast<int>(kTop + kRow * static_cast<double>(curves.size()) + 70));
    right_ = options.width - legend_;
    bottom_ = height_ - 56;
  }

  std::string draw() {
    put("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
        "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"12\" fill=\"#333\">\n",
        options_.width, height_);
    put("<title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n", escape(options_.title));
    put("<text x=\"{:.1f}\" y=\"28\" font-size=\"17\" font-weight=\"bold\">{}</text>\n", kLeft, escape(options_.title));
    draw_axes();
    put("<clipPath id=\"frame\"><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/></clipPath>\n",
        kLeft, kTop, right_ - kLeft, bottom_ - kTop);
    put("<g clip-path=\"url(#frame)\" fill=\"none\" stroke-linejoin=\"round\">\n");
    // Raw lines first: they lie below all others.
    for (size_t i = 0; i < curves_.size(); ++i) {
      if (smoothing_reach(curves_[i].train.size()) > 0) {
        draw_line(thin(curves_[i].train, kMostPoints), color(i),
                  fmt::format("stroke-width=\"0.8\" stroke-opacity=\"{}\"", curves_.size() > 2 ? 0.1 : 0.22));
      }
    }
    for (size_t i = 0; i < curves_.size(); ++i) draw_curve(curves_[i], color(i));
    put("</g>\n");
    draw_legend();
    put("</svg>\n");
    return std::move(out_);
  }

 private:
  static constexpr double kLeft = 70, kTop = 48, kRow = 40;

  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  static const char* color(size_t i) { return kColors[i % kColors.size()]; }
  double px(double x) const { return kLeft + (x - x_.low) / (x_.high - x_.low) * (right_ - kLeft); }
  double py(double y) const { return bottom_ - (y - y_.low) / (y_.high - y_.low) * (bottom_ - kTop); }

  void draw_axes() {
    const Ticks xs = ticks_of(x_, std::max(2, static_cast<int>((right_ - kLeft) / 90)), options_.x);
    const Ticks ys = ticks_of(y_, std::max(2, static_cast<int>((bottom_ - kTop) / 55)), options_.x);
    put("<g stroke=\"#e4e4e4\">\n");
    for (const double x : xs.values) put("<path d=\"M{0:.1f} {1:.1f}V{2:.1f}\"/>\n", px(x), kTop, bottom_);
    for (const double y : ys.values) put("<path d=\"M{0:.1f} {1:.1f}H{2:.1f}\"/>\n", kLeft, py(y), right_);
    put("</g>\n<path d=\"M{0:.1f} {1:.1f}V{2:.1f}H{3:.1f}\" fill=\"none\" stroke=\"#666\"/>\n", kLeft, kTop, bottom_,
        right_);
    for (size_t i = 0; i < xs.values.size(); ++i) {
      put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", px(xs.values[i]), bottom_ + 18,
          xs.labels[i]);
    }
    for (size_t i = 0; i < ys.values.size(); ++i) {
      put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft - 8, py(ys.values[i]) + 4,
          ys.labels[i]);
    }
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" font-size=\"13\">{}</text>\n", (kLeft + right_) / 2,
        bottom_ + 42, kAxisNames[static_cast<size_t>(options_.x)]);
    put("<text transform=\"translate(20 {:.1f}) rotate(-90)\" text-anchor=\"middle\" font-size=\"13\">{}</text>\n",
        (kTop + bottom_) / 2, escape(options_.y_name));
  }

  void draw_line(const std::vector<CurvePoint>& points, const char* line_color, std::string_view style) {
    if (points.empty()) return;
    put("<path stroke=\"{}\" {} d=\"", line_color, style);
    char command = 'M';
    for (const CurvePoint& point : points) {
      put("{}{:.1f} {:.1f}", command, px(x_of(point, options_.x)), py(y_of(point, options_.x)));
      command = 'L';
    }
    put("\"/>\n");
  }

  void draw_curve(const Curve& curve, const char* line_color) {
    draw_line(thin(smooth(curve.train, smoothing_reach(curve.train.size())), kMostPoints), line_color,
              "stroke-width=\"1.8\"");
    draw_line(thin(curve.validation, kMostPoints), line_color, "stroke-width=\"1.4\" stroke-dasharray=\"5 3\"");
    const std::vector<CurvePoint>& dots = options_.x == PlotAxis::lengths ? curve.train : curve.validation;
    if (dots.size() > 80) return;
    for (const CurvePoint& point : dots) {
      put("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.8\" fill=\"{}\" stroke=\"white\" stroke-width=\"0.8\"/>\n",
          px(x_of(point, options_.x)), py(y_of(point, options_.x)), line_color);
    }
  }

  void draw_legend() {
    const double x = right_ + 18;
    double y = kTop + 10;
    for (size_t i = 0; i < curves_.size(); ++i, y += kRow) {
      const Curve& curve = curves_[i];
      put("<path d=\"M{:.1f} {:.1f}h20\" stroke=\"{}\" stroke-width=\"3\"/>\n", x, y - 4, color(i));
      put("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", x + 28, y, escape(shorten(curve.label)));
      std::string last;
      if (options_.x == PlotAxis::lengths) {
        last = ends_of(curve);
      } else if (!curve.train.empty()) {
        last = fmt::format("train {:.4g}", smooth(curve.train, smoothing_reach(curve.train.size())).back().loss);
      }
      if (!curve.validation.empty()) {
        last += fmt::format("{}val {:.4g}", last.empty() ? "" : " · ", curve.validation.back().loss);
      }
      put("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"11\" fill=\"#777\">{}</text>\n", x + 28, y + 15, last);
    }
    if (options_.x == PlotAxis::lengths) return;
    // What the kinds of lines mean, at the bottom of the legend.
    y = bottom_ - 20;
    put("<g stroke=\"#777\" fill=\"#777\"><path d=\"M{0:.1f} {1:.1f}h20\" stroke-width=\"1.8\"/>"
        "<path d=\"M{0:.1f} {2:.1f}h20\" stroke-width=\"1.4\" stroke-dasharray=\"5 3\"/></g>\n",
        x, y - 4, y + 14);
    put("<text x=\"{0:.1f}\" y=\"{1:.1f}\" font-size=\"11\" fill=\"#777\">training{3}</text>"
        "<text x=\"{0:.1f}\" y=\"{2:.1f}\" font-size=\"11\" fill=\"#777\">validation</text>\n",
        x + 28, y, y + 18, is_smoothed() ? ", smoothed" : "");
  }

  static std::string ends_of(const Curve& curve) {
    if (curve.train.empty()) return {};
    return fmt::format("{:.3g} to {:.3g}", curve.train.front().loss, curve.train.back().loss);
  }

  bool is_smoothed() const {
    return std::any_of(curves_.begin(), curves_.end(),
                       [](const Curve& curve) { return smoothing_reach(curve.train.size()) > 0; });
  }

  std::span<const Curve> curves_;
  const PlotOptions& options_;
  Range x_, y_;
  double legend_ = 0, right_ = 0, bottom_ = 0;
  int height_ = 0;
  std::string out_;
};

}  // namespace

std::string draw_svg(std::span<const Curve> curves, const PlotOptions& options) {
  const bool has_points = std::any_of(curves.begin(), curves.end(), [](const Curve& curve) {
    return !curve.train.empty() || !curve.validation.empty();
  });
  T6_CHECK(has_points, "[draw_svg] expected a curve with a point, got {} without", curves.size());
  return SvgPlot(curves, options).draw();
}

}  // namespace t6::train
