// Inside the plots: ranges, ticks and labels of axes.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "train/plot.h"

namespace t6::train {

struct Range {
  double low = 0;
  double high = 1;
};

// About `count` multiples of 1, 2, 2.5 or 5 times a power of ten that lie in the range, and how to write them: 0 20k
// 40k, or 2.50 2.75.
struct Ticks {
  std::vector<double> values;
  std::vector<std::string> labels;
};
Ticks ticks_of(const Range& range, int count);
// The same where the range is of logarithms to the base two: every whole one, or every second, third, ... of them,
// written as what it is the logarithm of: 0.25 0.5 1, or 512 1k 2k.
Ticks power_ticks_of(const Range& range, int count);
inline Ticks ticks_of(const Range& range, int count, PlotAxis axis) {
  return axis == PlotAxis::lengths ? power_ticks_of(range, count) : ticks_of(range, count);
}

// Where a point stands on the axes: what it holds, or logarithms of that.
double x_of(const CurvePoint& point, PlotAxis axis);
double y_of(const CurvePoint& point, PlotAxis axis);
// From 0, or on a logarithmic axis from the first point, to a little beyond the furthest point of any curve.
Range x_range(std::span<const Curve> curves, PlotAxis axis);
// Holds all points with room around them, but for those of the first 3 % of x when they would take more than half of
// the height.
Range y_range(std::span<const Curve> curves, PlotAxis axis, const Range& x);

}  // namespace t6::train
