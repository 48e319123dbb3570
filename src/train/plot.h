// Loss curves of runs, and times against lengths: as an SVG file, as a plot of characters for the terminal, and as a
// sparkline.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace t6::train {

struct CurvePoint {
  int64_t step;     // or the length
  uint64_t tokens;  // trained on until here
  double loss;      // finite; or another value, positive where axes are logarithmic
};

struct Curve {
  std::string label;
  std::vector<CurvePoint> train;
  std::vector<CurvePoint> validation;
};

// lengths: of caches, from 1; both axes are logarithmic to the base two then, and nothing is smoothed.
enum class PlotAxis { steps, tokens, lengths };

struct PlotOptions {
  std::string title = "Training and validation loss";
  PlotAxis x = PlotAxis::steps;
  int width = 960;   // pixels of the SVG
  int height = 540;  // more when the legend needs it
  std::string y_name = "loss (nats a token)";
};

// The losses in `path`, a run folder or its metrics.jsonl; the label is the folder's name. Losses that are not finite,
// or beyond 1e100, are left out, and so is a torn last line (the run may be going on). Error(io) when it cannot be
// read, Error(data) with the line when one is no JSON object, and when there is no loss at all.
Curve read_curve(const std::filesystem::path& path);

// The mean of the points around each one, up to `reach` on both sides; less at the ends, so that the steep beginning is
// not drawn late. 0 changes nothing.
std::vector<CurvePoint> smooth(std::span<const CurvePoint> points, size_t reach);
// The reach plots use: a hundredth of the points; so fewer than 100 are not smoothed.
size_t smoothing_reach(size_t points);

// A whole SVG document without references to anything outside: per curve the smoothed training loss over the raw one in
// a paler tone, and the validation loss dashed with dots; axes, title and a legend with the last values. The first 3 %
// of the steps may lie above the frame when they are far higher than the rest. At least one curve with a point, else
// Error(internal).
std::string draw_svg(std::span<const Curve> curves, const PlotOptions& options);

// Lines of text, each ending in "\n", at most `columns` wide (at least 40) and about `rows` high (at least 8): smoothed
// training losses (of curves without any, the validation losses), axes, and a line of legend per curve.
std::string draw_terminal(std::span<const Curve> curves, PlotAxis x, int columns, int rows, bool color, bool unicode);

// `width` characters ▁▂▃▄▅▆▇█ or, without unicode, digits 0 to 9, from the lowest to the highest: each the mean of its
// share of the values. What is not finite is left out; fewer values than `width` give one character each.
std::string sparkline(std::span<const double> values, int width, bool unicode);

}  // namespace t6::train
