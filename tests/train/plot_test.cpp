#include "train/plot.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/io.h"
#include "train/metrics.h"
#include "train/plot_axis.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;

// A run of `steps` steps whose loss falls from `first` towards `last`, with some noise.
Curve some_curve(const std::string& label, int64_t steps, double first, double last) {
  Curve curve;
  curve.label = label;
  for (int64_t step = 1; step <= steps; ++step) {
    const double noise = 0.08 * std::sin(static_cast<double>(step * step % 1009));
    const double loss =
        last + (first - last) * std::exp(-10.0 * static_cast<double>(step) / static_cast<double>(steps));
    curve.train.push_back({step, static_cast<uint64_t>(step) * 4096, loss + noise});
    if (step % (steps / 10) == 0) curve.validation.push_back({step, static_cast<uint64_t>(step) * 4096, loss + 0.1});
  }
  return curve;
}

size_t count(const std::string& text, std::string_view part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

class ReadCurve : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("t6_plot_" + std::to_string(::getpid())) / "tpa small";
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_.parent_path()); }
  void write(const std::string& text) { io::write_text_atomically(folder_ / "metrics.jsonl", text); }

  fs::path folder_;
};

TEST_F(ReadCurve, TakesWhatMetricsWriterWrote) {
  {
    MetricsWriter writer(folder_, std::nullopt);
    for (int64_t step = 1; step <= 3; ++step) {
      StepMetrics m;
      m.step = step;
      m.loss = step == 2 ? std::nan("") : 4.0 - static_cast<double>(step);
      m.tokens_seen = static_cast<uint64_t>(step) * 100;
      writer.train(m);
    }
    writer.validation({3, 1.5, 300, 10, 1});
  }
  std::ofstream(folder_ / "metrics.jsonl", std::ios::app) << "{\"kind\":\"another\",\"step\":3,\"loss\":9}\n";
  for (const fs::path& path : {folder_, folder_ / "metrics.jsonl", folder_ / "."}) {
    const Curve curve = read_curve(path);
    EXPECT_EQ(curve.label, "tpa small");
    ASSERT_EQ(curve.train.size(), 2U);
    EXPECT_EQ(curve.train[1].step, 3);
    EXPECT_EQ(curve.train[1].tokens, 300U);
    EXPECT_EQ(curve.train[1].loss, 1.0);
    ASSERT_EQ(curve.validation.size(), 1U);
    EXPECT_EQ(curve.validation[0].loss, 1.5);
  }
}

TEST_F(ReadCurve, ATornLastLineIsNoFault) {
  write("{\"kind\":\"train\",\"step\":1,\"loss\":2}\n{\"kind\":\"tra");
  EXPECT_EQ(read_curve(folder_).train.size(), 1U);
}

TEST_F(ReadCurve, OtherFaultsNameFileAndLine) {
  const auto message_of = [this](ExitCode code) {
    try {
      read_curve(folder_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return std::string(error.what());
    }
    return std::string("no error");
  };
  write("{\"kind\":\"train\",\"step\":1,\"loss\":2}\nhello\n{}\n");
  EXPECT_NE(message_of(ExitCode::data).find("metrics.jsonl:2: "), std::string::npos);
  write("{\"kind\":\"event\",\"step\":1}\n{\"kind\":\"train\",\"step\":\"1\",\"loss\":2}\n");
  EXPECT_NE(message_of(ExitCode::data).find("holds no loss"), std::string::npos);
  fs::remove(folder_ / "metrics.jsonl");
  EXPECT_NE(message_of(ExitCode::io).find("metrics.jsonl"), std::string::npos);
}

TEST(PlotAxisTicks, AreRoundAndSharePrefixAndDecimals) {
  EXPECT_EQ(ticks_of({0, 100'000}, 5).labels, (std::vector<std::string>{"0", "20k", "40k", "60k", "80k", "100k"}));
  EXPECT_EQ(ticks_of({2.4, 3.1}, 4).labels, (std::vector<std::string>{"2.4", "2.6", "2.8", "3.0"}));
  EXPECT_EQ(ticks_of({2.41, 3.6}, 5).labels, (std::vector<std::string>{"2.50", "2.75", "3.00", "3.25", "3.50"}));
  EXPECT_EQ(ticks_of({0, 1200}, 6).labels, (std::vector<std::string>{"0", "200", "400", "600", "800", "1000", "1200"}));
  EXPECT_EQ(ticks_of({0, 5.9e8}, 3).labels, (std::vector<std::string>{"0", "200M", "400M"}));
  EXPECT_EQ(ticks_of({-0.1, 0.1}, 2).labels, (std::vector<std::string>{"-0.1", "0.0", "0.1"}));
}

TEST(PlotSmoothing, IsTheMeanAroundEachPointAndLessAtTheEnds) {
  std::vector<CurvePoint> points;
  for (int i = 0; i < 400; ++i) points.push_back({i, 0, i < 200 ? 3.0 : 5.0});
  points[0].loss = 9;
  points[399].loss = 7;
  const auto line = smooth(points, 4);
  EXPECT_EQ(line[0].loss, 9.0);
  EXPECT_NEAR(line[4].loss, 3.0, 1e-12);  // the mean of points 3 to 5
  EXPECT_NEAR(line[195].loss, 3.0, 1e-12);
  EXPECT_NEAR(line[199].loss, (5 * 3 + 4 * 5) / 9.0, 1e-12);
  EXPECT_NEAR(line[204].loss, 5.0, 1e-12);
  EXPECT_NEAR(line[399].loss, (4 * 5 + 7) / 5.0, 1e-12);
  EXPECT_EQ(line[204].step, 204);
  EXPECT_EQ(smooth(points, 0)[200].loss, 5.0);
  EXPECT_EQ(smoothing_reach(99), 0U);
  EXPECT_EQ(smoothing_reach(5000), 50U);
}

TEST(PlotRange, LeavesOutAHighBeginningOnly) {
  const std::vector<Curve> falling{some_curve("a", 1000, 10, 3)};
  const Range x = x_range(falling, PlotAxis::steps);
  EXPECT_NEAR(x.high, 1015, 1e-9);
  EXPECT_NEAR(x_range(falling, PlotAxis::tokens).high, 4'157'440, 1e-3);
  const Range range = y_range(falling, PlotAxis::steps, x);
  EXPECT_GT(range.low, 2.5);
  EXPECT_LT(range.low, 3.05);
  EXPECT_GT(range.high, 8);  // falls slowly: the beginning is in
  std::vector<Curve> sudden = falling;
  for (auto& point : sudden[0].train)
    point.loss = point.step < 10 ? 50 : 3 + 0.001 * static_cast<double>(point.step % 7);
  sudden[0].validation.clear();
  EXPECT_LT(y_range(sudden, PlotAxis::steps, x).high, 20);
  for (auto& point : sudden[0].train) point.loss = 3;
  EXPECT_GT(y_range(sudden, PlotAxis::steps, x).high, 3);
}

// Start tags, end tags and quotes match, and every entity is one of XML's.
bool is_well_formed(const std::string& xml) {
  std::vector<std::string> open;
  for (size_t at = 0; at < xml.size(); ++at) {
    if (xml[at] == '&') {
      const std::string entity = xml.substr(at, xml.find(';', at) - at + 1);
      if (entity != "&amp;" && entity != "&lt;" && entity != "&gt;" && entity != "&quot;") return false;
    }
    if (xml[at] != '<') continue;
    const size_t end = xml.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = xml.substr(at + 1, end - at - 1);
    if (tag.find('<') != std::string::npos || count(tag, "\"") % 2 != 0) return false;
    const std::string name = tag.substr(0, tag.find_first_of(" /\n"));
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
    at = end;
  }
  return open.empty();
}

TEST(PlotSvg, HoldsEveryCurveAndIsWellFormed) {
  const std::vector<Curve> curves{some_curve("tpa <small> & \"co\"", 5000, 10, 3.0),
                                  some_curve("mha\x01", 90, 10, 3.2)};
  PlotOptions options;
  options.title = "a < b";
  const std::string svg = draw_svg(curves, options);
  EXPECT_TRUE(is_well_formed(svg));
  EXPECT_NE(svg.find("tpa &lt;small&gt; &amp; &quot;co&quot;"), std::string::npos);
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_EQ(svg.find('\x01'), std::string::npos);
  EXPECT_EQ(count(svg, "<circle"), 20U);
  EXPECT_EQ(count(svg, "stroke-opacity"), 1U);  // the raw line of the long run only
  EXPECT_EQ(count(svg, "stroke-dasharray=\"5 3\" d="), 2U);
  EXPECT_NE(svg.find("val 3.3"), std::string::npos);
  EXPECT_NE(svg.find(">step<"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(count(svg, "href"), 0U);
  EXPECT_LT(svg.size(), 120'000U);
  options.x = PlotAxis::tokens;
  EXPECT_NE(draw_svg(curves, options).find(">tokens<"), std::string::npos);
}

// The line of raw losses.
std::string raw_line_of(const Curve& curve) {
  const std::string svg = draw_svg(std::vector<Curve>{curve}, {});
  const size_t at = svg.find("stroke-opacity");
  return svg.substr(at, svg.find('\n', at) - at);
}

TEST(PlotSvg, ThinsLongRunsButKeepsTheirEndAndSpikes) {
  Curve curve = some_curve("long", 200'000, 10, 3);
  EXPECT_LT(draw_svg(std::vector<Curve>{curve}, {}).size(), 100'000U);
  const std::string line = raw_line_of(curve);
  Curve spike = curve;
  spike.train[123'456].loss = 4.75;
  EXPECT_NE(raw_line_of(spike), line);
  // 60 + 24 * 6.9 pixels of legend: the frame goes from 70 to 734.4, for steps up to 203,000.
  EXPECT_EQ(line.substr(line.rfind('L'), 7), "L724.6 ");
}

TEST(PlotSvg, OnePointAndManyCurves) {
  const std::string one = draw_svg(std::vector<Curve>{{"one", {{1, 10, 2.5}}, {}}}, {});
  EXPECT_TRUE(is_well_formed(one));
  EXPECT_EQ(count(one, "d=\"\""), 0U);
  EXPECT_TRUE(is_well_formed(draw_svg(std::vector<Curve>{{"zero", {}, {{0, 0, 2.5}}}, {"none", {}, {}}}, {})));
  const std::vector<Curve> many(30, some_curve("a run", 100, 5, 3));
  const std::string svg = draw_svg(many, {});
  EXPECT_EQ(count(svg, ">a run<"), 30U);
  EXPECT_NE(svg.find("height=\"1318\""), std::string::npos) << svg.substr(0, 200);
  EXPECT_THROW(draw_svg({}, {}), Error);
}

size_t columns_of(const std::string& line) {
  size_t columns = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\x1b') {
      i = line.find('m', i);
    } else if ((line[i] & 0xC0) != 0x80) {
      ++columns;
    }
  }
  return columns;
}

TEST(PlotTerminal, FitsItsColumnsAndRows) {
  const std::vector<Curve> curves{some_curve(std::string(200, 'l'), 500, 10, 3), some_curve("b", 1000, 10, 3.5)};
  for (const int columns : {10, 40, 61, 80, 200}) {
    for (const bool unicode : {false, true}) {
      const std::string plot = draw_terminal(curves, PlotAxis::steps, columns, 15, unicode, unicode);
      EXPECT_EQ(count(plot, "\n"), 17U);
      for (size_t at = 0; at < plot.size(); at = plot.find('\n', at) + 1) {
        const std::string line = plot.substr(at, plot.find('\n', at) - at);
        EXPECT_LE(columns_of(line), static_cast<size_t>(std::max(columns, 40))) << line;
      }
      EXPECT_EQ(plot.find('\x1b') != std::string::npos, unicode);
    }
  }
}

TEST(PlotTerminal, DrawsALine) {
  Curve curve{"run", {}, {}};
  for (int64_t step = 0; step <= 10; ++step) curve.train.push_back({step, 0, static_cast<double>(10 - step)});
  EXPECT_EQ(draw_terminal(std::vector<Curve>{curve}, PlotAxis::steps, 40, 10, false, false),
            "      10 +**\n"
            "         |  ***\n"
            "         |     *****\n"
            "         |          ***\n"
            "         |             ******\n"
            "         |                   ******\n"
            "         |                         ***\n"
            "       0 +                            **\n"
            "         ++----------------------------+\n"
            "    step  0                           10\n"
            "          ** run  train 0.0000\n");
}

// Time against length: each doubling of either is as far on its axis.
TEST(PlotLengths, AxesAreLogarithmic) {
  Curve curve{"tpa", {}, {}};
  for (int64_t length = 256; length <= 32768; length *= 2) {
    curve.train.push_back({length, 0, 0.5 * static_cast<double>(length) / 256});
  }
  const std::vector<Curve> curves{curve};
  const Range x = x_range(curves, PlotAxis::lengths), y = y_range(curves, PlotAxis::lengths, x);
  EXPECT_NEAR(x.low, 7.9, 1e-9);
  EXPECT_NEAR(x.high, 15.1, 1e-9);
  EXPECT_NEAR(y.low, -1.3, 1e-9);
  EXPECT_NEAR(y.high, 6.3, 1e-9);
  EXPECT_EQ(power_ticks_of(x, 20).labels,
            (std::vector<std::string>{"256", "512", "1k", "2k", "4k", "8k", "16k", "32k"}));
  EXPECT_EQ(power_ticks_of(x, 4).labels, (std::vector<std::string>{"256", "1k", "4k", "16k"}));
  EXPECT_EQ(power_ticks_of({-2.5, 0.5}, 9).labels, (std::vector<std::string>{"0.25", "0.5", "1"}));

  const std::string svg = draw_svg(curves, {.title = "Time", .x = PlotAxis::lengths, .y_name = "ms <a token>"});
  EXPECT_EQ(count(svg, "<circle"), 8);
  EXPECT_EQ(count(svg, "ms &lt;a token&gt;"), 1);
  EXPECT_EQ(count(svg, ">cached tokens<"), 1);
  EXPECT_EQ(count(svg, ">0.5 to 64<"), 1);
  EXPECT_EQ(count(svg, "training"), 0);
  // On logarithmic axes this is a straight line from corner to corner.
  const std::string text = draw_terminal(curves, PlotAxis::lengths, 70, 22, false, false);
  std::vector<size_t> ends;
  for (size_t at = 0; at < text.size();) {
    const std::string line = text.substr(at, text.find('\n', at) - at);
    if (const size_t mark = line.rfind('*'); mark != std::string::npos && ends.size() < 17) ends.push_back(mark);
    at += line.size() + 1;
  }
  ASSERT_GE(ends.size(), 16U);
  for (size_t i = 1; i < 16; ++i) EXPECT_NEAR(static_cast<double>(ends[i - 1] - ends[i]), 3, 1.5) << text;
  EXPECT_NE(text.find("cached"), std::string::npos);
}

TEST(PlotSparkline, ScalesFromLowToHigh) {
  const std::vector<double> falling{8, 7, 6, 5, 4, 3, 2, 1};
  EXPECT_EQ(sparkline(falling, 8, true), "█▇▆▅▄▃▂▁");
  EXPECT_EQ(sparkline(falling, 4, false), "9630");
  EXPECT_EQ(sparkline(std::vector<double>{1, std::nan(""), 3}, 8, false), "09");
  EXPECT_EQ(sparkline(std::vector<double>{2, 2}, 8, true), "▅▅");
  EXPECT_EQ(sparkline({}, 8, true), "");
}

}  // namespace
}  // namespace t6::train
