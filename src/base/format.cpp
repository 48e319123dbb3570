#include "base/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace t6 {
namespace {

// A value and the index of its prefix, chosen after rounding to three digits: 999.6 with base 1000 is {1.0, 1}.
struct Scaled {
  double value;
  size_t prefix;
};

Scaled scale(double magnitude, double base, size_t prefixes) {
  Scaled result{magnitude, 0};
  while (result.prefix + 1 < prefixes && result.value >= base - 0.5) {
    result.value /= base;
    ++result.prefix;
  }
  return result;
}

// Three significant digits for 0 <= value; 9.996 is "10.0", not "10.00".
std::string three_digits(double value) {
  if (value < 9.995) return fmt::format("{:.2f}", value);
  if (value < 99.95) return fmt::format("{:.1f}", value);
  return fmt::format("{:.0f}", value);
}

std::string not_finite(double value) {
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

bool is_whole(double value) {
  return value == std::floor(value);
}

}  // namespace

std::string format_count(double value) {
  if (!std::isfinite(value)) return not_finite(value);
  constexpr std::array<std::string_view, 5> kPrefixes{"", "k", "M", "B", "T"};
  const Scaled scaled = scale(std::abs(value), 1000, kPrefixes.size());
  const bool plain = scaled.prefix == 0 && is_whole(scaled.value);
  return fmt::format("{}{}{}", value < 0 ? "-" : "",
                     plain ? fmt::format("{:.0f}", scaled.value) : three_digits(scaled.value),
                     kPrefixes[scaled.prefix]);
}

std::string format_billions(double value) {
  const double magnitude = std::abs(value);
  if (!std::isfinite(value) || magnitude < 0.995e8 || magnitude >= 999.5e6) return format_count(value);
  return fmt::format("{:.2f}B", value / 1e9);
}

std::string format_memory(uint64_t bytes) {
  constexpr std::array<std::string_view, 7> kPrefixes{"", "K", "M", "G", "T", "P", "E"};
  // Prefixes change at 1000 rather than 1024, so that no number has four digits.
  double value = static_cast<double>(bytes);
  size_t prefix = 0;
  while (value >= 999.5) {
    value /= 1024;
    ++prefix;
  }
  return prefix == 0 ? fmt::format("{}", bytes) : fmt::format("{}{}", three_digits(value), kPrefixes[prefix]);
}

std::string format_bytes(double bytes) {
  if (!std::isfinite(bytes)) return not_finite(bytes) + " B";
  constexpr std::array<std::string_view, 6> kUnits{"B", "kB", "MB", "GB", "TB", "PB"};
  const Scaled scaled = scale(std::abs(bytes), 1000, kUnits.size());
  const std::string digits = scaled.prefix == 0 ? fmt::format("{:.0f}", scaled.value) : three_digits(scaled.value);
  return fmt::format("{}{} {}", bytes < 0 ? "-" : "", digits, kUnits[scaled.prefix]);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 59.95) return fmt::format("{:.1f}s", seconds);
  const auto whole = static_cast<uint64_t>(std::min(std::round(seconds), 1e15));
  const uint64_t minutes = (whole + 30) / 60;  // for the forms that show no seconds
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  if (minutes < 24 * 60) return fmt::format("{}h{:02}m", minutes / 60, minutes % 60);
  const uint64_t hours = (whole + 1800) / 3600;
  return fmt::format("{}d{:02}h", hours / 24, hours % 24);
}

std::string format_rate(double value) {
  return std::isfinite(value) ? fmt::format("{:.1e}", value) : not_finite(value);
}

std::string format_grouped(uint64_t value) {
  std::string digits = fmt::format("{}", value);
  for (size_t at = digits.size(); at > 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

}  // namespace t6
