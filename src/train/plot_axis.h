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

double x_of(const CurvePoint& point, PlotAxis axis);
// From 0 to a little beyond the furthest point of any curve.
Range x_range(std::span<const Curve> curves, PlotAxis axis);
// Holds all points with room around them, but for those of the first 3 % of x when they would take more than half of
// the height.
Range y_range(std::span<const Curve> curves, PlotAxis axis, const Range& x);

}  // namespace t6::train
