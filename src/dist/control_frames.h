// What the frames of the control channel carry, as bytes and back.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "dist/watch.h"
#include "dist/wire.h"

namespace t6::dist {

inline std::string to_text(const Report& report) {
  return Writer()
      .number(report.step)
      .number(report.calls)
      .text(report.phase)
      .number(std::llround(report.age * 1e6))
      .take();
}

inline Report read_report(Reader& body) {
  Report report;
  report.step = body.number();
  report.calls = body.number();
  report.phase = body.text().substr(0, 200);
  report.age = std::max(0.0, static_cast<double>(body.number()) * 1e-6);
  return report;
}

// Why a rank ends.
inline std::string to_text(ExitCode code, std::string_view text) {
  return Writer().number(static_cast<int>(code)).text(text.substr(0, 32768)).take();
}

inline ExitCode read_code(Reader& body) {
  const int64_t code = body.number();
  return code > 0 && code < 128 ? static_cast<ExitCode>(code) : ExitCode::peer;
}

inline std::string to_text(const std::vector<std::string>& texts) {
  Writer body;
  for (const std::string& text : texts) body.text(text);
  return body.take();
}

}  // namespace t6::dist
